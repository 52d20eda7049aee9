"""From an ordinary Hugging Face checkpoint, or a GGUF file, to a decoder.

Weights come from safetensors (one file or an index of shards), shapes and flags from ``config.json``; a GGUF
file (`bench.runtime.gguf`) holds both. Loading is strict: every missing, unexpected or misshapen tensor is
named. Pickled ``.bin`` weights are refused; the message says how to convert them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.cache import KVCache
from bench.runtime.checkpoint_files import is_gguf, weight_files
from bench.runtime.decoder import Decoder, Tier
from bench.runtime.gguf import GgufTensors, gguf_shapes, read_gguf
from bench.runtime.gguf_config import gguf_config
from bench.runtime.layers import read_weights, with_vocabulary
from bench.runtime.model_config import decoder_config, read_config
from bench.runtime.modules import TensorStore, memory_bytes, require_room
from bench.runtime.placements import make_placement
from bench.runtime.several_devices import Load, SpreadCache, layer_of, parts_of
from bench.runtime.stored_tensors import read_tensors, stored_tensors
from bench.runtime.tiers.compiled.decoder import CompiledDecoder
from bench.runtime.tiers.eager import EagerDecoder
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.runtime.tiers.graph.recorder import CudaRecorder
from bench.runtime.tiers.graph.slot_cache import SlotCache

_KINDS = {"eager": EagerDecoder, "static": Decoder, "compiled": CompiledDecoder}


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Where and how a model runs.

    Args:
        device: Of weights and cache.
        dtype: Of weights and cache.
        max_length: Most tokens of prompt and output together; the model's context is a limit too.
        tier: How passes run: ``eager``, ``static``, ``compiled`` (fp32 on a CPU) or ``graph`` (CUDA).
        spread: The devices of a model that is spread over several, `device` first; else empty.
        layer_devices: Of such a model, the device of every layer, see `over_devices`.
        drafts_in_int8: The head that drafts has its weights in 8 bits; on the tier ``compiled``.
    """

    device: torch.device
    dtype: torch.dtype
    max_length: int
    tier: Tier = "static"
    spread: tuple[torch.device, ...] = ()
    layer_devices: tuple[torch.device, ...] = ()
    drafts_in_int8: bool = False

    def __post_init__(self) -> None:
        if self.drafts_in_int8 and self.tier != "compiled":
            raise UserError(
                f"runtime.draft_head=int8 needs compiled products, and this run is on the tier {self.tier}",
                "use runtime.draft_head=stored, or float32 on a CPU with gcc or clang",
            )

    def place(self, name: str) -> torch.device:
        """Where the checkpoint's tensor of that name lies."""
        layer = layer_of(name) if self.layer_devices else None
        return self.device if layer is None else self.layer_devices[layer]


def over_devices(options: RuntimeOptions, config: Any, shapes: Mapping[str, Sequence[int]]) -> RuntimeOptions:  # noqa: ANN401
    """The options with a device for every layer; the same if the model lies on one device.

    Args:
        options: Where and how the model runs.
        config: The transformers configuration.
        shapes: Of the checkpoint's tensors, by name.

    Raises:
        UserError: If the model does not fit the devices.
    """
    if not options.spread:
        return options
    shape, width = decoder_config(config), options.dtype.itemsize
    slots = min(options.max_length, shape.context)
    load = Load.of(shapes, width, 2 * shape.kv_heads * shape.head_dim * slots * width)
    rooms = [memory_bytes(device) for device in options.spread]
    return replace(options, layer_devices=tuple(load.share(options.spread, rooms)))


def load_decoder(folder: Path, options: RuntimeOptions, vocabulary: int | None = None) -> Decoder:
    """Load a checkpoint.

    Args:
        folder: With ``config.json`` and safetensors weights; or a GGUF file.
        options: Where and how it runs.
        vocabulary: As for `build_decoder`.

    Raises:
        UserError: If files are missing, damaged, pickled, of an unsupported architecture, larger than the
            memory, or do not fit the config.
    """
    config = load_config(folder)
    if not options.spread:
        require_room(weight_files(folder), options.device, options.dtype)
    if is_gguf(folder):
        shapes = gguf_shapes(read_gguf(folder))
        _require_fit(config, shapes)
        options = over_devices(options, config, shapes)
        tensors = GgufTensors(read_gguf(folder), options.place, options.dtype)
        return build_decoder(config, tensors, options, vocabulary)
    stored = stored_tensors(folder)
    sizes = {name: tensor.shape for name, tensor in stored.items()}
    _require_fit(config, sizes)
    options = over_devices(options, config, sizes)
    values = dict(read_tensors(stored, options.place, options.dtype))
    return build_decoder(config, values, options, vocabulary)


def _require_fit(config: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:  # noqa: ANN401
    """Compare names and shapes with the config before anything is allocated.

    Raises:
        UserError: If they do not fit.
    """
    shape = decoder_config(config)
    if shape.layers > len(shapes):
        raise UserError(
            f"the weights do not fit config.json: it has {shape.layers} layers, the weights are "
            f"{len(shapes)} tensors",
            "check that weights and config.json are of the same model and the download is complete",
        )
    meta = torch.device("meta")
    empty: dict[str, Tensor] = {name: torch.empty(size, device=meta) for name, size in shapes.items()}
    read_weights(shape, empty, meta)


def load_config(folder: Path) -> Any:  # noqa: ANN401
    """The transformers configuration in `folder`, checked to be of an architecture that the decoder runs.

    Raises:
        UserError: If there is no ``config.json``, it cannot be read, or the architecture is not supported.
    """
    config = gguf_config(read_gguf(folder)) if is_gguf(folder) else read_config(folder)
    decoder_config(config)  # refuses an unsupported one before gigabytes are read
    return config


def build_decoder(
    config: Any,  # noqa: ANN401
    tensors: TensorStore,
    options: RuntimeOptions,
    vocabulary: int | None = None,
) -> Decoder:
    """Build a decoder from a transformers configuration and named tensors.

    Args:
        config: The transformers configuration.
        tensors: Checkpoint tensors by name, in the dtype and on the device of `options`. They are removed
            from the dictionary, so that each can be freed once it is fused.
        options: Where and how the decoder runs.
        vocabulary: Rows of embedding and head, where they must be others than the stored ones, see
            `with_vocabulary`.

    Raises:
        UserError: If the tensors do not fit the configuration.
    """
    shape = decoder_config(config)
    stored = read_weights(shape, tensors, options.device)
    weights = replace(stored, drafts_in_int8=options.drafts_in_int8)
    if vocabulary is not None and vocabulary != shape.vocab:
        weights = with_vocabulary(weights, vocabulary)
    capacity = min(options.max_length, shape.context)
    placement = make_placement(config, shape, capacity, options.device, options.dtype)
    if options.device.type == "cuda":
        _choose_kernels()
    parts = parts_of(options.layer_devices) if options.layer_devices else ()
    if parts:
        cache = SpreadCache(parts, shape.kv_heads, capacity, shape.head_dim, options.dtype)
        return _KINDS[options.tier](weights, cache, placement)
    slots = (shape.layers, shape.kv_heads, capacity, shape.head_dim, options.dtype, options.device)
    if options.tier == "graph":
        return GraphDecoder(weights, SlotCache(*slots), placement, CudaRecorder(options.device))
    return _KINDS[options.tier](weights, KVCache(*slots), placement)


def _choose_kernels() -> None:
    """Leave out kernels that are slow, or inexact, for passes of a few rows.

    cuDNN's attention makes a plan for every new shape, and the shape changes with every token. A sum that
    cuBLAS reduces in bfloat16 depends on how many rows it has, so that one row and K rows of the same tokens
    would differ more than rounding has to.
    """
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
