"""The record of a run that has not begun: its names, its identity and its labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.compose.identity import module_parameters, run_identity
from bench.compose.schema import ModelConfig, run_id
from bench.compose.settings import Settings
from bench.records.model import ARENA, Run
from bench.runtime.sampling import Sampler
from bench.tasks.task import LoadedTask
from bench.tasks.tokenizer import ignored_generation_settings
from methods.core.base import Method, traits_of

if TYPE_CHECKING:
    from bench.compose.workbench import Target

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
    traits = traits_of(method)
    return {
        "exactness": method.exactness(sampler).value,
        "independent re-implementation": traits.is_reimplementation,
        "cost only": is_cost_only(settings.model, method),
        "draft cost": traits.draft_cost,
        "several tokens per row": traits.several_tokens_per_row,
        "draft parameters": module_parameters(settings.methods[label].params.get("weights")),
    }


def is_cost_only(model: ModelConfig, method: Method) -> bool:
    """Whether only times mean anything: the method is given its acceptance, or the weights are random."""
    return model.weights == "random" or traits_of(method).is_cost_only
