"""The record of a run that has not begun: its names, its labels and its identity.

The identity is what makes two starts the same run: settings that change ids or times, and hashes of weights
and inputs. The hashes read pieces of the weights only, so that they stay fast for large checkpoints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.compose.components import Component, resolve_path
from bench.compose.schema import ModelConfig, run_id
from bench.compose.settings import Settings
from bench.outline.gguf_file import read_gguf_header
from bench.records.model import ARENA, Run, original_settings
from bench.runtime.checkpoint_files import CONFIG_FILE, is_gguf, no_checkpoint, weight_files
from bench.runtime.tensor_header import count_parameters, tensors_hash
from bench.tasks.task import LoadedTask
from bench.tasks.tokenizer import ignored_generation_settings

if TYPE_CHECKING:
    from bench.compose.workbench import Target
    from bench.runtime.sampling import Sampler
    from methods.core.base import Method, Traits

_VERSION = "v2-"
"""Begins a checkpoint's hash, so that it is never mixed up with one of older code, which read less."""
WEIGHTS_FILE, PROVENANCE_FILE = "module.safetensors", "module.json"
"""Of a module's folder, as in `bench.runtime.modules`, which imports torch."""
_PLACES = ("path", "modules", "frequent_tokens", "draft_vocab", "questions")
"""Keys of a model that say where things are or how many, and make no other run."""
_ADDED = ("dtype", "stop_ids")
"""Keys of a model that came later: they count only where they are set, so that older run ids stay valid."""
_ADDED_TO_TASK = ("column", "format")
"""Keys of a task that came later, and count only where they are set."""

_LEFT_OUT = (("tier", "auto"), ("devices", 1), ("attention", "auto"), ("draft_head", "stored"))
"""Settings of the runtime that came later, with what older runs had: left out, so that their ids stay."""
LONGEST = 60
"""Characters of a setting that tables show."""


def describe_run(
    settings: Settings, task: LoadedTask, target: Target, methods: Mapping[str, Method], sampler: Sampler
) -> Run:
    """The record of a run: its names, identity and labels."""
    identity = run_identity(
        settings,
        questions=task.source.sha256,
        weights=target.weights_hash,
        template=target.chat.template_hash,
        tier=target.options.tier,
        has_system=any(prompt.system for prompt in task.prompts),
        has_history=any(prompt.opening or prompt.tools for prompt in task.prompts),
        ends=target.ends_beside_config,
    )
    name = ARENA if settings.is_arena else settings.method.name
    names = name, settings.task.name, str(settings.model.name)
    own = {label: _own_labels(settings, label, method, sampler) for label, method in methods.items()}
    parts = {
        label: {"name": settings.methods[label].name, **identity["methods"][label], "labels": own[label]}
        for label in (own if settings.is_arena else ())
    }
    ignored = ignored_generation_settings(target.folder)
    return Run(
        run_id=run_id(*names, identity),
        method=names[0],
        task=names[1],
        model=names[2],
        identity=identity,
        config=settings.config,
        labels={
            **({} if settings.is_arena else next(iter(own.values()))),
            "prompts": task.source.name.value,
            **({"chat": text} if (text := _chat_text(settings)) else {}),
            "partial": task.source.partial,
            "random weights": settings.model.weights == "random",
            "tier": target.options.tier,
            **({"not applied": ignored} if ignored else {}),
        },
        methods=parts,
    )


def _chat_text(settings: Settings) -> str:
    """What the chat template is given, for tables; empty if nothing is set."""
    given = settings.chat.given
    named = {"chat.system": given["system"]} if "system" in given else {}
    named |= given.get("template_args", {})
    return ", ".join(f"{name}={_shown(value)}" for name, value in named.items())


def _shown(value: object) -> str:
    """A setting in JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 4]}..."'


def _own_labels(settings: Settings, label: str, method: Method, sampler: Sampler) -> dict[str, Any]:
    """The labels of a run that belong to one of its methods."""
    from methods.core.base import traits_of  # imports torch, which an identity does without

    traits = traits_of(method)
    return {
        "exactness": method.exactness(sampler).value,
        "independent re-implementation": traits.is_reimplementation,
        "cost only": is_cost_only(settings.model, traits),
        "draft cost": traits.draft_cost,
        "several tokens per row": traits.several_tokens_per_row,
        "draft parameters": module_parameters(settings.methods[label].params.get("weights")),
    }


def is_cost_only(model: ModelConfig, traits: Traits) -> bool:
    """Whether only times mean anything: the method is given its acceptance, or the weights are random."""
    return model.weights == "random" or traits.is_cost_only


def run_identity(
    settings: Settings,
    *,
    questions: str,
    weights: str,
    template: str,
    tier: str,
    has_system: bool = False,
    has_history: bool = False,
    ends: Sequence[int] | None = None,
) -> dict[str, Any]:
    """What a run id is the hash of; ``measure`` and folders of results are not part of it.

    Args:
        settings: Of the run.
        questions: Hash of the questions.
        weights: Hash of the model's weights.
        template: Hash of the chat template.
        tier: Tier of the decoder. ``auto`` depends on the machine, so the tier is written out for compiled
            passes, which may end in other ids.
        has_system: Whether a question has a system message; older code left those out of the prompt.
        has_history: Whether a question gives more than a system message before its first turn; older code
            left that out.
        ends: End tokens of `bench.tasks.tokenizer.ends_beside_config`; None where the config gives them.
    """
    plain = settings.config
    parts = {label: method_identity(method) for label, method in settings.methods.items()}
    kept = {key: value for key, value in plain["model"].items() if key not in _PLACES}
    runtime = {key: value for key, value in plain["runtime"].items() if (key, value) not in _LEFT_OUT}
    return {
        **({"methods": parts} if settings.is_arena else next(iter(parts.values()))),
        "task": _task_identity(plain["task"]),
        "questions": questions,
        "model": {key: value for key, value in kept.items() if value or key not in _ADDED},
        "model_weights": weights,
        "template": template,
        **settings.chat.facts,
        "sampling": plain["sampling"],
        "runtime": runtime | ({"tier": "compiled"} if tier == "compiled" else {}),
        "history": settings.measure.history,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
        **({"system_messages": True} if has_system else {}),
        **({"history_messages": True} if has_history else {}),
        **({} if ends is None else {"end_tokens": list(ends)}),
    }


def _task_identity(task: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a task without the place of its questions."""
    kept = {key: value for key, value in task.items() if key != "path"}
    return {key: value for key, value in kept.items() if value is not None or key not in _ADDED_TO_TASK}


def method_identity(method: Component) -> dict[str, Any]:
    """A method's own part of a run's identity: its settings, and the hash of its trained modules."""
    params = method.params
    return {
        "method": {
            "target": method.target,
            **original_settings(params),
            **_drafted_tokens(params),
            **_hidden_constructor(method),
        },
        "method_weights": module_hash(params.get("weights")),
    }


def _drafted_tokens(params: Mapping[str, Any]) -> dict[str, str]:
    """Hash of the list that the method drafts from, if it drafts frequent tokens alone."""
    file = params.get("frequent_tokens")
    if params.get("draft_vocab") is None or file is None or not Path(resolve_path(file)).is_file():
        return {}
    return {"frequent_tokens": hashlib.sha256(Path(resolve_path(file)).read_bytes()).hexdigest()[:16]}


def _hidden_constructor(method: Component) -> dict[str, str]:
    """The constructor, where a setting called ``target`` takes its place; shipped ones keep older run ids."""
    is_hidden = "target" in method.params and not method.target.startswith("methods.")
    return {"constructor": method.target} if is_hidden else {}


def shape_hash(folder: Path) -> str:
    """Hash for random weights, which follow from the shape in ``config.json``, or in a GGUF file.

    Raises:
        UserError: If there is no ``config.json``.
    """
    if is_gguf(folder):
        return "random-" + read_gguf_header(folder).hash()[:9]
    return "random-" + hashlib.sha256(_config_bytes(folder)).hexdigest()[:9]


def checkpoint_hash(folder: Path) -> str:
    """``v2-`` and 16 hex digits over a checkpoint: its config and every tensor: name, type, shape and pieces.

    Reading all of a 13 GB file would take a minute; see `bench.runtime.tensor_header.hash_pieces`. Of a GGUF
    file, the header and pieces of every tensor are read.

    Raises:
        UserError: If there is no ``config.json``, or a weight file is missing or damaged.
    """
    if is_gguf(folder):
        return _VERSION + read_gguf_header(folder).hash()[:16]
    digest = hashlib.sha256(_config_bytes(folder))
    digest.update(tensors_hash(weight_files(folder)).encode())
    return _VERSION + digest.hexdigest()[:16]


def _config_bytes(folder: Path) -> bytes:
    try:
        return (folder / CONFIG_FILE).read_bytes()
    except OSError as error:
        raise no_checkpoint(folder) from error


def module_hash(weights: Any) -> str | None:  # noqa: ANN401 - a parameter as the yaml gives it
    """Hash of a method's trained modules, so that retrained or recalibrated ones make another run."""
    if not isinstance(weights, str):
        return None
    folder = Path(resolve_path(weights))
    if (folder / "config.json").is_file() or is_gguf(folder):  # a whole model of the method's own
        return checkpoint_hash(folder)
    files = [folder / name for name in (WEIGHTS_FILE, PROVENANCE_FILE)]
    contents = [file.read_bytes() for file in files if file.is_file()]  # `attach` refuses missing files
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16] if contents else None


def module_parameters(weights: Any) -> int | None:  # noqa: ANN401 - as above
    """Parameters of a method's modules beside the target; of a whole model of its own, all its parameters."""
    if not isinstance(weights, str):
        return None
    folder = Path(resolve_path(weights))
    if is_gguf(folder):
        return read_gguf_header(folder).parameters
    files = [file for file in (folder / WEIGHTS_FILE, folder / "model.safetensors") if file.is_file()]
    return sum(count_parameters(file) for file in files) or None
