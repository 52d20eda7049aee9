"""Estimates for a run before it starts: what must be fetched or trained first, memory, and time.

Nothing is downloaded and no weights are loaded: model and modules are built of tensors without storage and
counted. Memory is what the decoder is certain to allocate; activations and the driver come on top. Time is an
upper estimate in most parts: every answer has its full length, no method is faster than the baseline, and
each token reads all weights and the cache at the bandwidth of the data sheet. It leaves out the prefill, and
that an eager loop is slower than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from transformers import LlamaConfig

from bench.compose.components import Component, resolve_path
from bench.compose.identity import module_parameters
from bench.compose.schema import ModelConfig, RuntimeConfig
from bench.compose.settings import Settings
from bench.compose.workbench import options_for
from bench.errors import UserError
from bench.metrics.roofline import ceiling_tokens_per_s, step_bytes
from bench.plan.devices import GPUS, Gpu, recognised
from bench.runtime.checkpoint_files import is_gguf, resolved_here, weight_files
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions, load_config
from bench.runtime.modules import PROVENANCE_FILE, memory_bytes
from bench.runtime.random_weights import empty_decoder
from bench.show.layout import byte_size
from bench.tasks.task import Fetched
from methods.core.autoregressive import Autoregressive
from methods.core.base import FullTrainable, Method, Trainable

KNOWN_SHAPES = Path(__file__).parents[1] / "assets" / "shapes" / "checkpoints.yaml"
CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly: prompts are not tokenised for a plan."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of a model and a method's modules on a device.

    Args:
        weight_bytes: Of the model's weights.
        pass_bytes: Of the weights that a decode step reads.
        token_bytes: Of keys and values of one token.
        capacity: Tokens that the cache has room for.
        module_bytes: Of the method's modules, and of the head's rows that it copies for drafting.
    """

    weight_bytes: int
    pass_bytes: int
    token_bytes: int
    capacity: int
    module_bytes: int

    @property
    def cache_bytes(self) -> int:
        """Allocated for keys and values."""
        return self.token_bytes * self.capacity

    @property
    def total_bytes(self) -> int:
        """All that is certain to be allocated."""
        return self.weight_bytes + self.cache_bytes + self.module_bytes


@dataclass(frozen=True, slots=True)
class Outlook:
    """The estimates for one run.

    Args:
        samples: Answers that the run decodes, of all arms and repeats.
        longest: Most tokens of an answer.
        context: Mean number of tokens in the cache at half an answer; includes the prompt if it is here.
        size: None if the model's shape is unknown.
        gpu: The GPU that time is estimated for; None if there is none, or it is not in the table.
        missing: What has to be fetched or trained first, one sentence each.
        is_startable: Whether everything that identifies the run is on this machine.
    """

    samples: int
    longest: int
    context: int
    size: Size | None
    gpu: Gpu | None
    missing: tuple[str, ...]
    is_startable: bool

    @property
    def token_s(self) -> float | None:
        """Seconds of one plain decode step at full bandwidth; None without a size or a GPU."""
        if self.size is None or self.gpu is None:
            return None
        read = step_bytes(self.size.pass_bytes, self.size.token_bytes, self.context)
        return 1 / ceiling_tokens_per_s(read, self.gpu.bytes_per_s)

    @property
    def seconds(self) -> float | None:
        """Of the whole run; None where `token_s` is."""
        return None if self.token_s is None else self.samples * self.longest * self.token_s


def estimate(settings: Settings) -> Outlook:
    """The estimates for a run, made without network and weights.

    Raises:
        UserError: If a setting cannot be met, whatever is fetched.
    """
    methods = {label: method.build() for label, method in settings.methods.items()}
    turns, characters, is_task_here = _questions(settings)
    gpu = _gpu(settings)
    decoder, is_model_here = find_empty(
        settings.model, planned_options(settings.runtime, settings.model, gpu)
    )
    missing = [] if is_task_here else [f"the prompts of task={settings.task.name} are fetched"]
    missing += [] if is_model_here else [f"{settings.model.path} is fetched"]
    missing += [line for method in settings.methods.values() for line in _missing_modules(settings, method)]
    longest = settings.max_new_tokens
    drafting = sum(not isinstance(method, Autoregressive) for method in methods.values())
    repeats = settings.measure.repeats * settings.measure.sessions
    return Outlook(
        samples=turns * (repeats * (1 + drafting + settings.has_control) + settings.has_eager_arm),
        longest=longest,
        context=longest // 2 + characters // CHARACTERS_PER_TOKEN,
        size=None if decoder is None else _size(settings.methods, methods, decoder),
        gpu=gpu,
        missing=tuple(missing),
        is_startable=is_task_here and is_model_here,
    )


def require_room_for_all(settings: Settings) -> None:
    """Refuse methods that do not fit into memory together, before anything is loaded.

    Counted are weights, modules and cache; activations and the copies that a CPU's products use come on top.

    Raises:
        UserError: If they need more memory than there is, with the sum.
    """
    size, device = estimate(settings).size, options_for(settings.runtime, settings.model).device
    if size is None or size.total_bytes <= (room := memory_bytes(device)):
        return
    parts = f"{byte_size(size.weight_bytes)} of weights, {byte_size(size.module_bytes)} of modules"
    raise UserError(
        f"the {len(settings.methods)} methods need {byte_size(size.total_bytes)} together ({parts}), "
        f"and {device.type} has {byte_size(room)}",
        "name fewer methods, or measure them apart: -m method=A,B launch=isolated",
    )


def _questions(settings: Settings) -> tuple[int, int, bool]:
    """Number of turns, mean characters of a prompt (0 if unknown), and whether the prompts are here."""
    task = settings.task.build()
    unfetched = task.unfetched_turns() if isinstance(task, Fetched) else None
    if unfetched is not None:
        return unfetched, 0, False
    prompts = task.load().prompts
    turns = [turn for prompt in prompts for turn in prompt.turns]
    given = sum(prompt.first_characters - len(prompt.turns[0]) for prompt in prompts if prompt.opening)
    return len(turns), (sum(map(len, turns)) + given) // len(turns), True


def _missing_modules(settings: Settings, method: Component) -> list[str]:
    weights = method.params.get("weights")
    if not isinstance(weights, str):
        return []
    names = method.name.partition("-")[0], settings.model.name
    folder = Path(resolve_path(weights))
    if settings.model.modules is None and weights.startswith("None/"):
        folder = Path(f"results/train/{names[1]}/{names[0]}")
    if is_gguf(folder) or any((folder / name).is_file() for name in (PROVENANCE_FILE, "config.json")):
        return []
    return [f"{folder} holds no modules: python -m bench.train method={names[0]} model={names[1]}"]


def _holds_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except ValueError:  # a UserError: the download was cut short
        return False


def _gpu(settings: Settings) -> Gpu | None:
    """The GPU that is set, or the one that the run would use."""
    if settings.plan_device is not None:
        return GPUS[settings.plan_device]
    if settings.runtime.device == "cpu" or not torch.cuda.is_available():
        return None
    return recognised(torch.cuda.get_device_name())


def _shape(folder: Path | None, path: str) -> Any:  # noqa: ANN401 - a transformers configuration
    """Configuration of a checkpoint: its own, or the one shipped for its name; None without either."""
    if folder is not None:
        return load_config(folder)
    known: Any = OmegaConf.to_container(OmegaConf.load(KNOWN_SHAPES))
    for entry in known:
        if path in entry["checkpoints"]:
            return LlamaConfig(**entry["shape"], architectures=["LlamaForCausalLM"])
    return None


def planned_options(runtime: RuntimeConfig, model: ModelConfig, gpu: Gpu | None) -> RuntimeOptions:
    """Where and how the model would lie in memory, on this machine or on a GPU that it may not have."""
    options = options_for(runtime, model)
    if gpu is None or runtime.dtype is not None:
        return options
    dtype = getattr(torch, model.dtype or "bfloat16")
    return RuntimeOptions(options.device, dtype, options.max_length)


def find_empty(model: ModelConfig, options: RuntimeOptions) -> tuple[Decoder | None, bool]:
    """The model without storage, None if its shape is unknown; and whether it is on this machine."""
    folder = resolved_here(model.path, model.revision)
    is_here = folder is not None and (model.weights == "random" or _holds_weights(folder))
    return _empty(folder if is_here else None, model.path, options), is_here


@cache
def _empty(folder: Path | None, path: str, options: RuntimeOptions) -> Decoder | None:
    """The model without storage, cached for the other runs of a sweep; None if its shape is unknown."""
    config = _shape(folder, path)
    return None if config is None else empty_decoder(config, options)


def _size(components: Mapping[str, Component], methods: Mapping[str, Method], decoder: Decoder) -> Size:
    modules, width = 0, decoder.dtype.itemsize
    for label, component in components.items():
        modules += _module_parameters(component, methods[label], decoder)
        rows = component.params.get("draft_vocab") or 0
        modules += rows * decoder.config.width  # copied rows of the head
    return Size(
        weight_bytes=decoder.parameters * width,
        pass_bytes=decoder.pass_parameters * width,
        token_bytes=decoder.cache.token_bytes,
        capacity=decoder.capacity,
        module_bytes=modules * width,
    )


def _module_parameters(component: Component, method: Method, decoder: Decoder) -> int:
    """Parameters of the method's modules: as stored, else as training would make them."""
    weights = component.params.get("weights")
    if weights is None:
        return 0
    stored = module_parameters(weights)
    if stored is not None:
        return stored
    with decoder.device:
        if isinstance(method, Trainable):
            return sum(tensor.numel() for tensor in method.trainer().new_module(decoder).parameters())
        if isinstance(method, FullTrainable):
            return sum(tensor.numel() for tensor in method.model_trainer().new_model(decoder).parameters())
    return 0  # fitted to the model but without tensors, such as a set of layers to skip
