"""``python -m bench.train.exits model=smollm2 data.path=ANSWERS``: tune a model for early exits.

The folder of the result holds low-rank changes; ``python -m bench.convert kind=merged`` adds them to the
model, which is then run as any other.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from bench.cli import run_composed
from bench.compose.components import Component, require_complete, require_known, resolve_path
from bench.compose.places import require_model_place
from bench.compose.schema import ChatConfig, ModelConfig, RuntimeConfig
from bench.errors import UserError
from bench.show.waiting import announce

log = logging.getLogger(__name__)


@dataclass
class ExitsConfig:
    """Settings of the training.

    Args:
        model: The model to tune.
        runtime: Device, dtype and threads.
        chat: What the model's chat template is given.
        data: Dialogues to learn from, best the model's own answers.
        exits: Settings of `bench.train.exits.trainer.ExitSettings`.
        recipe: Settings of `bench.train.trainers.recipe.ModuleRecipe`.
        cache: Folder for what the untuned model says of the data; None runs every dialogue through it.
        start: Folder of an earlier result to start from; None starts from the model as it is.
        out: Folder of the result; None stands for ``results/train/<model>/exits``.
    """

    model: ModelConfig = MISSING
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    data: Any = None
    exits: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    cache: str | None = None
    start: str | None = None
    out: str | None = None


def main() -> None:
    """Entry point of ``python -m bench.train.exits``."""
    ConfigStore.instance().store(name="exits_schema", node=ExitsConfig)
    run_composed(_job, "exits", "the last checkpoint is kept; the same command resumes from it")


def _job(composed: DictConfig) -> None:
    require_known(composed)
    require_complete(composed)
    settings: ExitsConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]  # the schema's type
    require_model_place(settings.model)
    name = str(HydraConfig.get().runtime.choices["data"])
    data = Component.from_node("data", name, settings.data).build()
    if hasattr(data, "require_readable"):
        data.require_readable()  # before torch and weights are loaded
    announce("loading torch and the model; training comes next")
    out = Path(settings.out or f"results/train/{HydraConfig.get().runtime.choices['model']}/exits")
    figures = _train(settings, data, out)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    model = [text for text in HydraConfig.get().overrides.task if text.startswith("model")]
    command = " ".join(["python -m bench.convert kind=merged", *model, f"source={out}", "out=FOLDER"])
    log.info("%s; add it to the model: %s", shown, command)


def _train(settings: ExitsConfig, data: Any, out: Path) -> dict[str, float]:  # noqa: ANN401 - --help must not import torch
    from bench.compose.identity import checkpoint_hash
    from bench.compose.workbench import chat_format, options_for, settle_threads
    from bench.runtime.checkpoint_files import resolve
    from bench.runtime.loading import load_decoder
    from bench.runtime.sampling import DraftVocab
    from bench.tasks.tokenizer import load_tokenizer
    from bench.train.cache.examples import examples_of
    from bench.train.exits.trainer import ExitSettings, ExitTrainer
    from bench.train.subject import checked, require_memory_for
    from bench.train.trainers.modules import train_module
    from bench.train.trainers.recipe import ModuleRecipe

    trainer = ExitTrainer(checked(settings.exits, ExitSettings(), "exits"))
    recipe = checked(settings.recipe, ModuleRecipe(), "recipe")
    model, runtime = settings.model, settings.runtime
    if runtime.devices > 1:
        raise UserError("training runs on one device", "leave out runtime.devices")
    folder, options = resolve(model.path, model.revision), options_for(runtime, model)
    require_memory_for(trainer, recipe, folder, options)
    decoder = load_decoder(folder, options)
    settle_threads(decoder, runtime.threads)
    chat = chat_format(load_tokenizer(folder), model.template, settings.chat)
    frequent = None if model.frequent_tokens is None else str(resolve_path(model.frequent_tokens))
    head = DraftVocab(model.draft_vocab, frequent).head(decoder)
    facts = {"model": model.name, "model_weights": checkpoint_hash(folder), "data": data.location}
    facts |= {"draft_vocab": head.size, **settings.chat.facts}
    start = [] if settings.start is None else [Path(settings.start)]
    if start:
        facts["start"] = [settings.start]
    examples = examples_of(trainer, decoder, head, data, chat, recipe, settings.cache, facts)
    return train_module(trainer, decoder, examples, recipe, out, facts, start)
