"""Which run a command means and which samples it has, without torch, transformers or a loaded model."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench import PACKAGE_ROOT
from bench.compose.cells import cells_of, key_of
from bench.compose.components import Component
from bench.compose.identity import checkpoint_hash, run_identity, shape_hash
from bench.compose.schema import ModelConfig, RuntimeConfig, run_id
from bench.compose.settings import Settings
from bench.errors import UserError
from bench.outline import Unclear
from bench.outline.model import model_shape
from bench.outline.tokenizer import hash_of_template, tokenizer_outline
from bench.records.files import expanded
from bench.records.model import ARENA, Arm, Key
from bench.runtime.checkpoint_files import is_gguf, resolved_here
from bench.runtime.tiers.compiled.library import Missing, library
from bench.tasks.task import LoadedTask, load_here
from bench.tasks.tokenizer import other_ends

AUTOREGRESSIVE = "methods.core.autoregressive.Autoregressive"
_METHODS = PACKAGE_ROOT / "conf" / "method"
_DRIVERS = ("libcuda.so.1", "nvcuda.dll", "libamdhip64.so")


@dataclass(frozen=True, slots=True)
class RunOutline:
    """A run as files describe it.

    Args:
        run_id: Its name.
        identity: What the name is the hash of.
        keys: Of all samples that it has once it is complete.
        dtype: Precision of its weights.
    """

    run_id: str
    identity: Mapping[str, Any]
    keys: frozenset[Key]
    dtype: str


def outline_of(settings: Settings, task: LoadedTask | None = None) -> RunOutline:
    """The run that the settings mean.

    Args:
        settings: Of the run.
        task: Its prompts, if they have been read.

    Raises:
        Unclear: If only the libraries can say, or if something is wrong; they then say what.
    """
    try:
        return _outline_of(settings, task)
    except UserError as error:
        raise Unclear(error.what) from error


def _outline_of(settings: Settings, task: LoadedTask | None) -> RunOutline:
    for method in settings.methods.values():
        if not method.target.startswith("methods."):
            raise Unclear(f"{method.target} is not of this package")
    tier, dtype = tier_of(settings.runtime)
    model = settings.model
    folder = resolved_here(model.path, model.revision)
    if folder is None:
        raise Unclear(f"{model.path} is not on this machine")
    template, ends = _spoken(model, folder)
    task = task or load_here(settings.task.build())
    if task is None:
        raise Unclear("the questions are not on this machine")
    weights = shape_hash(folder) if model.weights == "random" else checkpoint_hash(folder)
    identity = run_identity(
        settings,
        questions=task.source.sha256,
        weights=weights,
        template=template,
        tier=tier,
        has_system=any(prompt.system for prompt in task.prompts),
        has_history=any(prompt.opening or prompt.tools for prompt in task.prompts),
        ends=ends,
    )
    first = ARENA if settings.is_arena else settings.method.name
    name = run_id(first, settings.task.name, str(settings.model.name), identity)
    return RunOutline(name, identity, frozenset(_keys(settings, task)), dtype)


def _keys(settings: Settings, task: LoadedTask) -> Iterator[Key]:
    drafting = [label for label, method in settings.methods.items() if method.target != AUTOREGRESSIVE]
    further = [Arm.CONTROL.value] * settings.has_control + [Arm.EAGER.value] * settings.has_eager_arm
    cells = cells_of(
        task.prompts,
        [Arm.BASELINE.value, *drafting, *further],
        repeats=settings.measure.repeats,
        sessions=range(settings.measure.sessions),
        seed=settings.seed,
    )
    return (key_of(cell, label) for cell in cells for label in cell.labels)


def _spoken(model: ModelConfig, folder: Path) -> tuple[str, list[int] | None]:
    """Hash of the chat template; and the end tokens if they are others than the config's."""
    other = None if model.tokenizer is None else expanded(model.tokenizer)
    if other is not None and not (other.is_dir() or is_gguf(other)):
        raise Unclear("the tokenizer is fetched from the Hub")
    outline = tokenizer_outline(folder if other is None else other)
    most = min(outline.tokens, model_shape(folder).vocab)
    if outline.tokens > most or any(token >= most for token in model.stop_ids):
        raise Unclear("tokens that the model may not know")
    template = hash_of_template(model.template, outline)
    if is_gguf(folder):
        return template, None
    if outline.end is None:
        raise Unclear("the tokenizer is a GGUF file's")
    return template, other_ends(folder, {outline.end_id, *model.stop_ids})


def tier_of(runtime: RuntimeConfig) -> tuple[str, str]:
    """Tier and precision of a run on the CPU.

    Raises:
        Unclear: If there may be a GPU, or the tier is not possible.
    """
    if runtime.device == "cuda" or (runtime.device == "auto" and may_have_gpu()):
        raise Unclear("the GPU must be looked at")
    dtype = runtime.dtype or "float32"
    is_compiled = runtime.tier == "compiled" or (runtime.tier == "auto" and dtype == "float32")
    if runtime.tier == "graph" or (is_compiled and (dtype != "float32" or isinstance(library(), Missing))):
        raise Unclear(f"runtime.tier={runtime.tier} is not possible")
    return "compiled" if is_compiled else "static" if runtime.tier == "auto" else runtime.tier, dtype


def may_have_gpu() -> bool:
    """Whether torch was built for GPUs and a driver is installed; only torch says whether they work."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return True
    built = Path(torch.origin).parent / "lib"
    return any(built.glob("*torch_[ch][ui][dp]*")) and any(map(_loads, _DRIVERS))


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def has_shipped_settings(settings: Settings) -> bool:
    """Whether every method has the settings of its shipped yaml, which need no check by its constructor."""
    config = settings.config
    given = config["methods"] if settings.is_arena else {Arm.METHOD.value: config["method"]}
    return all(_is_shipped(method, given[label], config) for label, method in settings.methods.items())


def _is_shipped(method: Component, given: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    file = _METHODS / f"{method.name}.yaml"
    if not file.is_file():
        return False
    shared = {key: value for key, value in config.items() if key not in ("method", "methods")}
    try:
        tree = OmegaConf.create({**shared, "method": OmegaConf.load(file)})
        return bool(OmegaConf.to_container(tree, resolve=True)["method"] == given)  # type: ignore[index, call-overload]
    except OmegaConfBaseException:
        return False
