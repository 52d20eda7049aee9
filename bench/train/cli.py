"""The command line of training: ``python -m bench.train method=kangaroo model=tiny`` or ``base=tiny``.

Models, methods, settings and error messages are those of the benchmark; see `bench.cli`. With ``plan=true``
it prints the memory that the training needs, and stops.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from bench.cli import run_composed
from bench.compose.components import Component, require_choice, resolve_path
from bench.compose.places import default_out, require_model_place
from bench.compose.schema import ChatConfig, ModelConfig, RuntimeConfig
from bench.errors import UserError
from bench.plan.devices import GPUS
from bench.show.waiting import announce
from bench.train.subject import checked, print_plan, require_memory_for, subject_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.runtime.decoder import Decoder
    from bench.tasks.chat import ChatFormat
    from bench.train.data.conversations import Conversations
    from bench.train.data.embedded import EmbeddedCorpus
    from bench.train.trainers.modules import Example
    from bench.train.trainers.recipe import ModuleRecipe
    from methods.core.base import ModuleTrainer

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
        out: Folder of the result; None is where ``method.weights`` looks, see `bench.compose.places`.
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
    next_ = "its memory is counted next" if settings.plan else "the data and the training come next"
    announce(f"loading torch, then the model; {next_}")
    if settings.base is not None:
        _train_base(composed, str(choices["base"]))
    elif settings.plan:
        print_plan(composed, str(choices["method"]), str(choices["model"]))
    else:
        require_model_place(settings.model)
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
    recipe = checked(OmegaConf.to_container(composed.base, resolve=True), default_recipe(device), "base")
    final = train_base(recipe, Path(composed.out or f"results/train/{name}"), device=device)
    if final is None:
        raise KeyboardInterrupt
    log.info("the model is in %s; use it with model=local model.path=%s", final, final)


def _train_method(composed: DictConfig, name: str, model: str) -> None:
    from bench.compose.identity import checkpoint_hash
    from bench.compose.workbench import chat_format, options_for, settle_threads
    from bench.runtime.checkpoint_files import resolve
    from bench.runtime.loading import load_config, load_decoder
    from bench.runtime.model_config import decoder_config
    from bench.tasks.tokenizer import load_tokenizer
    from bench.train.curves import draw
    from bench.train.trainers.joint import train_joint
    from bench.train.trainers.modules import train_module
    from methods.core.base import ModuleTrainer

    config: ModelConfig = _object(composed.model)
    trainer, recipe = subject_of(composed, name)
    folder = resolve(config.path, config.revision)
    runtime: RuntimeConfig = _object(composed.runtime)
    if runtime.devices > 1:
        raise UserError("training runs on one device", "leave out runtime.devices")
    has_experts = decoder_config(load_config(folder)).moe is not None
    options = options_for(runtime, config, has_experts=has_experts)
    require_memory_for(trainer, recipe, folder, options)
    decoder = load_decoder(folder, options)
    settle_threads(decoder, runtime.threads)
    tokenizer = load_tokenizer(folder)
    out = Path(composed.out) if composed.out else default_out(name, model, config)
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
    log.info("measure it: %s", _use(name, model, out))


def _use(name: str, model: str, out: Path) -> str:
    """The command that decodes with what was trained: the settings of method and model as they were given."""
    given = [text for text in HydraConfig.get().overrides.task if text.startswith(("method.", "model."))]
    kept = [text for text in given if not text.startswith("method.weights=")]
    arguments = [f"method={name}", f"model={model}", *kept, f"method.weights={out}"]
    return f"python -m bench {shlex.join(arguments)}"


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
    from bench.train.cache.examples import examples_of

    size, file = composed.method.get("draft_vocab"), composed.method.get("frequent_tokens")
    head = DraftVocab(size, None if file is None else str(resolve_path(file))).head(decoder)
    return examples_of(trainer, decoder, head, data, chat, recipe, composed.cache, facts)


def _start(composed: DictConfig) -> list[Path]:
    """The folders whose weights training starts from; empty for new weights."""
    start = composed.start
    if start is None:
        return []
    return [Path(str(folder)) for folder in (start if OmegaConf.is_list(start) else [start])]


def _data(composed: DictConfig) -> Conversations | EmbeddedCorpus:
    node = OmegaConf.to_container(composed.data, resolve=True)
    name = str(HydraConfig.get().runtime.choices["data"])
    data: Conversations | EmbeddedCorpus = Component.from_node("data", name, node).build()
    return data


def _object(node: DictConfig) -> Any:  # noqa: ANN401 - the dataclass of the node's schema
    return OmegaConf.to_object(node)
