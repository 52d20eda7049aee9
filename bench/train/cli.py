"""The command line of training: ``python -m bench.train method=kangaroo model=tiny`` or ``base=tiny``.

Models, methods, settings and error messages are those of the benchmark; see `bench.cli`. With ``plan=true``
it prints the memory that the training needs, and stops.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from bench.cli import run_composed
from bench.compose.components import Component, require_choice, require_types, resolve_path
from bench.compose.mistakes import unknown_key
from bench.compose.schema import ChatConfig, ModelConfig, RuntimeConfig
from bench.errors import UserError
from bench.plan.devices import GPUS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.runtime.decoder import Decoder
    from bench.runtime.loading import RuntimeOptions
    from bench.tasks.chat import ChatFormat
    from bench.train.data.conversations import Conversations
    from bench.train.data.embedded import EmbeddedCorpus
    from bench.train.trainers.modules import Example
    from bench.train.trainers.recipe import ModuleRecipe
    from methods.core.base import ModelTrainer, ModuleTrainer

log = logging.getLogger(__name__)


@dataclass
class TrainConfig:
    """Settings of a training.

    Args:
        method: The method whose module, or whole model, is trained.
        model: The model to train it for.
        runtime: Device, dtype and threads.
        chat: What the model's chat template is given.
        recipe: Settings of `bench.train.trainers.recipe.ModuleRecipe`.
        base: Settings of `bench.train.base.build.BaseRecipe`; if given, the base model is trained instead.
        data: Dialogues to train on.
        cache: Folder for what the frozen model says of the data, filled once and read in every epoch; None
            runs every dialogue through the model when it is trained on.
        start: Folder of an earlier result to start from, or several, of which the mean is taken; None starts
            from new weights.
        out: Folder of the result.
        plan: Print the memory that the training needs and whether it is available, without training.
        gpu: GPU to plan for, one of `bench.plan.devices.GPUS`; None stands for this machine.
    """

    method: Any = MISSING
    model: ModelConfig = MISSING
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    recipe: dict[str, Any] = field(default_factory=dict)
    base: Any = None
    data: Any = None
    cache: str | None = None
    start: Any = None
    out: str | None = None
    plan: bool = False
    gpu: str | None = None

    def __post_init__(self) -> None:
        if self.gpu is not None:
            require_choice("gpu", self.gpu, tuple(GPUS))


def main() -> None:
    """Entry point of ``python -m bench.train``."""
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    run_composed(_job, "train", "the last checkpoint is kept; the same command resumes from it")


def _job(composed: DictConfig) -> None:
    choices = HydraConfig.get().runtime.choices
    settings: TrainConfig = _object(composed)  # raises if a value is out of range
    if settings.base is not None:
        _train_base(composed, str(choices["base"]))
    elif settings.plan:
        _plan(composed, str(choices["method"]), str(choices["model"]))
    else:
        _require_data(composed)
        _train_method(composed, str(choices["method"]), str(choices["model"]))


def _require_data(composed: DictConfig) -> None:
    """Refuse a file of conversations with a mistake before torch and weights are loaded."""
    from bench.train.data.conversations import Conversations

    data = _data(composed)
    if isinstance(data, Conversations):
        data.require_readable()


def _train_base(composed: DictConfig, name: str) -> None:
    if composed.plan:
        raise UserError("plan=true is for a method's modules, not for base", "leave out plan or base")

    from bench.compose.workbench import options_for
    from bench.train.base.build import default_recipe, train_base

    device = options_for(_object(composed.runtime)).device.type
    recipe = _checked(OmegaConf.to_container(composed.base, resolve=True), default_recipe(device), "base")
    final = train_base(recipe, Path(composed.out or f"results/train/{name}"), device=device)
    if final is None:
        raise KeyboardInterrupt
    log.info("the model is in %s; use it with model=local model.path=%s", final, final)


def _train_method(composed: DictConfig, name: str, model: str) -> None:
    from bench.compose.identity import checkpoint_hash
    from bench.compose.workbench import chat_format, options_for, settle_threads
    from bench.runtime.checkpoint_files import resolve
    from bench.runtime.loading import load_decoder
    from bench.tasks.tokenizer import load_tokenizer
    from bench.train.curves import draw
    from bench.train.trainers.joint import train_joint
    from bench.train.trainers.modules import train_module
    from methods.core.base import ModuleTrainer

    trainer, recipe = _subject(composed, name)
    config: ModelConfig = _object(composed.model)
    folder = resolve(config.path, config.revision)
    runtime: RuntimeConfig = _object(composed.runtime)
    options = options_for(runtime, config)
    _require_memory(trainer, recipe, folder, options)
    decoder = load_decoder(folder, options)
    settle_threads(decoder, runtime.threads)
    tokenizer = load_tokenizer(folder)
    out = Path(composed.out or f"results/train/{model}/{name}")
    data = _data(composed)
    facts: dict[str, Any] = {"model": model, "model_weights": checkpoint_hash(folder), "data": data.location}
    settings: ChatConfig = _object(composed.chat)
    chat = chat_format(tokenizer, config.template, settings)
    facts |= settings.facts
    if composed.method.get("draft_vocab") is not None:
        facts["draft_vocab"] = composed.method.draft_vocab
    start = _start(composed)
    if start:
        facts["start"] = [str(folder) for folder in start]
    if isinstance(trainer, ModuleTrainer):
        examples = _examples(composed, trainer, decoder, data, chat, recipe, facts)
        figures = train_module(trainer, decoder, examples, recipe, out, facts, start)
    elif composed.cache:
        raise UserError(f"method={name} trains the whole model, whose rows change", "Leave out cache.")
    else:
        dialogues = data.stream(chat, recipe.seed)
        figures = train_joint(trainer, decoder, folder, dialogues, recipe, out, facts, start)
    log.info("%s for %s is in %s: %s", name, model, out, figures)
    log.info("loss and accuracies over steps: %s", ", ".join(map(str, draw([out]))))


def _examples(
    composed: DictConfig,
    trainer: ModuleTrainer,
    decoder: Decoder,
    data: Conversations | EmbeddedCorpus,
    chat: ChatFormat,
    recipe: ModuleRecipe,
    facts: Mapping[str, Any],
) -> Iterator[Example]:
    """The dialogues to train on, as the frozen model sees them."""
    from bench.runtime.sampling import DraftVocab
    from bench.train.cache.rows import RowCache
    from bench.train.data.conversations import Conversations
    from bench.train.trainers.modules import observed

    size, file = composed.method.get("draft_vocab"), composed.method.get("frequent_tokens")
    head = DraftVocab(size, None if file is None else str(resolve_path(file))).head(decoder)
    if composed.cache is None:
        return observed(trainer, decoder, head, data.stream(chat, recipe.seed), recipe.max_tokens)
    if not isinstance(data, Conversations):
        raise UserError(
            "these dialogues never end, so a cache cannot hold them", "leave out cache, or set data=answers"
        )
    most = min(recipe.max_tokens, decoder.capacity)
    dialogues = [(ids[:most], is_answer[:most]) for ids, is_answer in data.dialogues(chat)]
    cache = RowCache(Path(composed.cache), decoder, dialogues, {"model_weights": facts["model_weights"]})
    taps = trainer.taps(decoder)
    cache.fill(taps)
    return cache.examples(taps, head, recipe.seed)


def _start(composed: DictConfig) -> list[Path]:
    """The folders whose weights training starts from; empty for new weights."""
    start = composed.start
    if start is None:
        return []
    return [Path(str(folder)) for folder in (start if OmegaConf.is_list(start) else [start])]


def _subject(composed: DictConfig, name: str) -> tuple[ModuleTrainer | ModelTrainer, Any]:
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
    return trainer, _checked(OmegaConf.to_container(composed.recipe, resolve=True), defaults, "recipe")


def _require_memory(
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


def _plan(composed: DictConfig, name: str, model: str) -> None:
    """Print the memory that a training needs, without downloading or loading weights."""
    from bench.plan.outlook import find_empty, planned_options
    from bench.runtime.modules import memory_bytes
    from bench.train.memory.estimate import plan_lines, training_memory

    trainer, recipe = _subject(composed, name)
    config: ModelConfig = _object(composed.model)
    gpu = None if composed.gpu is None else GPUS[composed.gpu]
    options = planned_options(_object(composed.runtime), config, gpu)
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


def _data(composed: DictConfig) -> Conversations | EmbeddedCorpus:
    node = OmegaConf.to_container(composed.data, resolve=True)
    name = str(HydraConfig.get().runtime.choices["data"])
    data: Conversations | EmbeddedCorpus = Component.from_node("data", name, node).build()
    return data


def _object(node: DictConfig) -> Any:  # noqa: ANN401 - the dataclass of the node's schema
    return OmegaConf.to_object(node)


def _checked(given: Any, defaults: Any, group: str) -> Any:  # noqa: ANN401 - a recipe of either kind
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
