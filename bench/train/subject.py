"""What a command trains: the method's trainer, the recipe, and the memory that the training needs."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from bench.compose.components import Component, require_types
from bench.compose.mistakes import unknown_key
from bench.errors import UserError
from bench.plan.devices import GPUS

if TYPE_CHECKING:
    from bench.runtime.loading import RuntimeOptions
    from bench.train.trainers.recipe import ModuleRecipe
    from methods.core.base import ModelTrainer, ModuleTrainer

log = logging.getLogger(__name__)


def subject_of(composed: DictConfig, name: str) -> tuple[ModuleTrainer | ModelTrainer, Any]:
    """The method's trainer and the recipe for it.

    Raises:
        UserError: If the method has nothing to train, or the recipe is invalid.
    """
    from bench.train.trainers.recipe import JointRecipe, ModuleRecipe
    from methods.core.base import FullTrainable, Trainable

    node = OmegaConf.to_container(composed.method, resolve=True)
    assert isinstance(node, dict)
    if "weights" in node:
        node["weights"] = None  # they do not exist yet
    method = Component.from_node("method", name, node).build()
    trainer: ModuleTrainer | ModelTrainer
    defaults: ModuleRecipe
    if isinstance(method, Trainable):
        trainer, defaults = method.trainer(), ModuleRecipe()
    elif isinstance(method, FullTrainable):
        trainer, defaults = method.model_trainer(), JointRecipe()
    else:
        raise UserError(
            f"method={name} has nothing to train",
            "choose a method with modules, such as kangaroo; skipped layers: python -m bench.train.skip_set",
        )
    return trainer, checked(OmegaConf.to_container(composed.recipe, resolve=True), defaults, "recipe")


def require_memory_for(
    trainer: ModuleTrainer | ModelTrainer, recipe: ModuleRecipe, folder: Path, options: RuntimeOptions
) -> None:
    """Log the memory that the training needs; raise if there is less, before weights are read."""
    from bench.runtime.loading import load_config
    from bench.runtime.modules import memory_bytes
    from bench.runtime.random_weights import empty_decoder
    from bench.train.memory.estimate import require_memory, training_memory

    memory = training_memory(trainer, empty_decoder(load_config(folder), options), recipe)
    log.info("memory: %s", memory.line())
    place = "the GPU has free" if options.device.type == "cuda" else "this machine has"
    require_memory(memory, memory_bytes(options.device), place)


def print_plan(composed: DictConfig, name: str, model: str) -> None:
    """Print the memory that a training needs, without downloading or loading weights."""
    from bench.plan.empty_model import find_empty, planned_options
    from bench.runtime.modules import memory_bytes
    from bench.train.memory.estimate import plan_lines, training_memory

    trainer, recipe = subject_of(composed, name)
    config: Any = OmegaConf.to_object(composed.model)
    runtime: Any = OmegaConf.to_object(composed.runtime)
    gpu = None if composed.gpu is None else GPUS[composed.gpu]
    options = planned_options(runtime, config, gpu)
    decoder, is_here = find_empty(config, options)
    memory = None if decoder is None else training_memory(trainer, decoder, recipe)
    place = options.device.type if gpu is None else gpu.title
    room_bytes = memory_bytes(options.device) if gpu is None else gpu.memory_bytes
    work = f"{recipe.steps} steps of {recipe.batch} dialogues, each up to {recipe.max_tokens} tokens"
    lines = [
        f"{name} for {model}: {work}",
        *plan_lines(memory, room_bytes, place),
        *([] if is_here else [f"  first   {config.path} is fetched"]),
    ]
    print("\n".join(lines), flush=True)  # noqa: T201 - the command's result


def checked(given: Any, defaults: Any, group: str) -> Any:  # noqa: ANN401 - a recipe of either kind
    """`defaults` with the yaml's values.

    Raises:
        UserError: If a key is unknown or a value is invalid.
    """
    known = [setting.name for setting in fields(defaults)]
    for key in given:
        if key not in known:
            raise UserError(*unknown_key(f"{group}.{key}", [f"{group}.{name}" for name in known]))
    require_types(group, type(defaults), given)
    return replace(defaults, **given)
