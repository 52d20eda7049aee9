"""Memory that a run takes before it starts, by the shapes that files state.

The model is counted by its shape, modules by the headers of their files; what has no file yet is built of
tensors without storage (`bench.plan.empty_model`), which loads torch and says so. `bench.plan.buffers` has
the arithmetic. The rows of a prefill and the driver come on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bench.compose.components import Component, resolve_path
from bench.compose.schema import ModelConfig, RuntimeConfig
from bench.compose.settings import Settings
from bench.outline import Unclear
from bench.outline.gguf_file import read_gguf_header
from bench.outline.model import model_shape, parameters, pass_parameters, stated_shape, token_numbers
from bench.outline.run import tier_of
from bench.plan import buffers as counted
from bench.plan.buffers import NO_BUFFERS, Buffers
from bench.plan.devices import Gpu
from bench.runtime.checkpoint_files import INDEX_FILE, is_gguf, resolved_here, weight_files
from bench.runtime.families import DecoderConfig
from bench.runtime.tensor_header import read_weights_header
from bench.runtime.tiers.compiled.library import Missing, library
from bench.show.waiting import announce

KNOWN_SHAPES = Path(__file__).parents[1] / "assets" / "shapes" / "checkpoints.yaml"
LLAMA: Mapping[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
}
"""What `KNOWN_SHAPES` leaves out: all that state no other family are Llamas."""
_MODULE_FILES = ("module.safetensors", "model.safetensors")
_SETTINGS_FILE = "module.json"
_LOW_RANK = ".lora_A"
"""Ends names of low-rank changes: beside them lies a copy of the model that has them added."""
_WIDTHS = {"float32": 4, "float64": 8}
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name, outputs first."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of a model and a method's modules on a device.

    Args:
        weight_bytes: Of the model's weights.
        pass_bytes: Of the weights that a decode step reads.
        token_bytes: Of keys and values of one token.
        capacity: Tokens that the cache has room for.
        module_bytes: Of the method's modules, and of the head's rows that it copies for drafting.
        buffers: Of everything else.
    """

    weight_bytes: int
    pass_bytes: int
    token_bytes: int
    capacity: int
    module_bytes: int
    buffers: Buffers = NO_BUFFERS

    @property
    def cache_bytes(self) -> int:
        """Allocated for keys and values."""
        return self.token_bytes * self.capacity

    @property
    def total_bytes(self) -> int:
        """All that is allocated but what a prefill needs for a while."""
        return self.weight_bytes + self.cache_bytes + self.module_bytes + self.buffers.total_bytes


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a run's tensors lie.

    Args:
        is_gpu: Whether on a GPU.
        dtype: Precision of weights and cache, as torch names it.
        capacity: Tokens that the cache has room for.
    """

    is_gpu: bool
    dtype: str
    capacity: int

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return _WIDTHS.get(self.dtype, 2)

    @property
    def is_compiled(self) -> bool:
        """Whether weights lie in the one layout of C code."""
        return not self.is_gpu and self.dtype == "float32" and not isinstance(library(), Missing)


def size_of(settings: Settings, gpu: Gpu | None) -> Size | None:
    """Bytes of model, cache, modules and buffers; None if the model's shape is unknown."""
    model, runtime = settings.model, settings.runtime
    try:
        _, dtype = tier_of(runtime)
        shape = _shape(model_folder(model), model.path)
    except Unclear as reason:
        announce(f"loading torch and transformers for this plan: {reason}")
        return _size_by_torch(settings, gpu)
    if shape is None:
        return None
    if gpu is not None and runtime.dtype is None:
        dtype = model.dtype or "bfloat16"
    place = _Place(gpu is not None, dtype, _capacity(settings, shape))
    return _size(settings, gpu, shape, place, (parameters(shape), pass_parameters(shape)))


def _size_by_torch(settings: Settings, gpu: Gpu | None) -> Size | None:
    """As `size_of`, of a decoder without storage."""
    from bench.plan.empty_model import find_empty, planned_options

    options = planned_options(settings.runtime, settings.model, gpu)
    decoder, _ = find_empty(settings.model, options)
    if decoder is None:
        return None
    is_gpu = gpu is not None or options.device.type == "cuda"
    place = _Place(is_gpu, str(decoder.dtype).removeprefix("torch."), decoder.capacity)
    return _size(settings, gpu, decoder.config, place, (decoder.parameters, decoder.pass_parameters))


def _capacity(settings: Settings, shape: DecoderConfig) -> int:
    most = settings.runtime.max_length
    return min(most, settings.model.context or most, shape.context)


def _size(
    settings: Settings, gpu: Gpu | None, shape: DecoderConfig, place: _Place, weights: tuple[int, int]
) -> Size:
    """The sizes of a model with so many weights, of which a pass reads the second number."""
    methods = settings.methods.values()
    modules = [_module_shapes(settings, component, gpu) for component in methods]
    heads = sum(component.params.get("draft_vocab") or 0 for component in methods) * shape.width
    numbers = sum(prod(each) for module in modules for each in module.values())
    numbers += weights[0] * sum(any(name.endswith(_LOW_RANK) for name in module) for module in modules)
    return Size(
        weight_bytes=weights[0] * place.width,
        pass_bytes=weights[1] * place.width,
        token_bytes=token_numbers(shape) * place.width,
        capacity=place.capacity,
        module_bytes=(numbers + heads) * place.width,  # rows of the head are copied
        buffers=_buffers(settings, shape, place, modules, heads),
    )


def _buffers(
    settings: Settings, shape: DecoderConfig, place: _Place, modules: list[Shapes], heads: int
) -> Buffers:
    width, dtype, capacity = place.width, place.dtype, place.capacity
    copied = 0
    if not place.is_gpu:
        copied = counted.copied_numbers(shape, dtype, is_compiled=place.is_compiled)
        parts = [*modules, {"draft_vocab": (heads, 1)}]
        copied += sum(counted.module_copies(each, dtype, is_compiled=place.is_compiled) for each in parts)
    held = Buffers(
        copy_bytes=copied * width,
        drafter_bytes=sum(map(counted.cached_numbers, modules)) * capacity * width,
        table_bytes=counted.table_bytes(shape, capacity, width),
    )
    if not place.is_gpu or not _records(settings.runtime, shape):
        return held
    recorded = counted.recorded_passes([component.params for component in settings.methods.values()])
    return replace(
        held,
        logits_bytes=counted.logits_bytes(shape, recorded, width),
        graph_bytes=counted.graph_bytes(shape, recorded, capacity, width),
        scratch_bytes=counted.scratch_bytes(shape, recorded, capacity, width),
    )


def _records(runtime: RuntimeConfig, shape: DecoderConfig) -> bool:
    """Whether passes on a GPU are recorded."""
    return runtime.tier in ("auto", "graph") and runtime.devices == 1 and shape.moe is None


def model_folder(model: ModelConfig) -> Path | None:
    """The model on this machine; None if it has to be fetched."""
    folder = resolved_here(model.path, model.revision)
    return folder if folder is not None and (model.weights == "random" or _holds_weights(folder)) else None


def _holds_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except ValueError:  # a UserError: the download was cut short
        return False


def _shape(folder: Path | None, path: str) -> DecoderConfig | None:
    """Shape of a checkpoint: its own, or the one shipped for its name; None without either.

    Raises:
        Unclear: If its files do not state it.
    """
    if folder is not None:
        return model_shape(folder)
    known: Any = OmegaConf.to_container(OmegaConf.load(KNOWN_SHAPES))
    for entry in known:
        if path in entry["checkpoints"]:
            return stated_shape({**LLAMA, **entry["shape"]})
    return None


def _module_shapes(settings: Settings, component: Component, gpu: Gpu | None) -> Shapes:
    """Tensors of the method's modules: as stored, else as training would make them."""
    weights = component.params.get("weights")
    if weights is None:
        return {}
    folder = Path(resolve_path(weights))
    stored = _stored_shapes(folder)
    if stored or (folder / _SETTINGS_FILE).is_file():  # settings alone, such as the layers to skip
        return stored
    announce(f"loading torch to count the modules of {component.name}, which are not trained yet")
    from bench.plan.empty_model import find_empty, new_module_shapes, planned_options

    options = planned_options(settings.runtime, settings.model, gpu)
    decoder, _ = find_empty(settings.model, options)
    return {} if decoder is None else new_module_shapes(component.build(), decoder)


def _stored_shapes(folder: Path) -> Shapes:
    """Shapes of the tensors in a module's folder, or in a GGUF file; none if it holds none."""
    if is_gguf(folder):
        entries = read_gguf_header(folder).tensors
        return {name: tuple(reversed(entry.shape)) for name, entry in entries.items()}
    files = [file for name in _MODULE_FILES if (file := folder / name).is_file()]
    if (folder / INDEX_FILE).is_file():
        files = weight_files(folder)
    return {entry.name: entry.shape for file in files for entry in read_weights_header(file)}
