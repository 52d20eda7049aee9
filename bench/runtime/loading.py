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
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UserError
from bench.runtime.cache import KVCache
from bench.runtime.checkpoint_files import is_gguf, weight_files
from bench.runtime.decoder import Attention, Decoder, Layer, Mlp, Tier, Weights
from bench.runtime.families import DecoderConfig
from bench.runtime.gguf import GgufTensors, gguf_shapes, read_gguf
from bench.runtime.gguf_config import gguf_config
from bench.runtime.linear import Linear
from bench.runtime.model_config import decoder_config, read_config
from bench.runtime.modules import CheckpointTensors, TensorStore, memory_bytes, require_room
from bench.runtime.moe import Moe
from bench.runtime.moe_weights import read_moe
from bench.runtime.placements import make_placement
from bench.runtime.residual import Residual
from bench.runtime.several_devices import Load, SpreadCache, layer_of, parts_of
from bench.runtime.stored_tensors import read_tensors, stored_tensors
from bench.runtime.tiers.compiled.decoder import CompiledDecoder
from bench.runtime.tiers.eager import EagerDecoder
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.runtime.tiers.graph.recorder import CudaRecorder
from bench.runtime.tiers.graph.slot_cache import SlotCache

_KINDS = {"eager": EagerDecoder, "static": Decoder, "compiled": CompiledDecoder}
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_NORMS = {
    (True, False): ("input_layernorm", None, "post_attention_layernorm", None),
    (True, True): (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    (False, True): (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
}
"""Names of the norms before and after attention, before and after the MLP, by whether a family has them."""


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
    """

    device: torch.device
    dtype: torch.dtype
    max_length: int
    tier: Tier = "static"
    spread: tuple[torch.device, ...] = ()
    layer_devices: tuple[torch.device, ...] = ()

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
    weights = read_weights(shape, tensors, options.device)
    if vocabulary is not None and vocabulary != shape.vocab:
        weights = with_vocabulary(weights, vocabulary)
    capacity = min(options.max_length, shape.context)
    placement = make_placement(config, shape, capacity, options.device, options.dtype)
    if options.device.type == "cuda":
        _choose_kernels()
    if parts := parts_of(options.layer_devices):
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


def read_weights(shape: DecoderConfig, tensors: TensorStore, device: torch.device) -> Weights:
    """The weights of a model from its named tensors, which are removed from the dictionary as they are used.

    Raises:
        UserError: If the tensors do not fit the shape.
    """
    source = CheckpointTensors(tensors, shape.norm_offset, device)
    names = set(tensors)
    has_head_only = shape.tied_head and _HEAD in names and _EMBEDDING not in names
    embedding = source.take(_HEAD if has_head_only else _EMBEDDING, shape.vocab, shape.width)
    layers = [_layer(source, shape, f"model.layers.{index}", index) for index in range(shape.layers)]
    final_norm = source.norm("model.norm.weight", shape.width)
    has_own_head = _HEAD in names and not has_head_only
    head = source.take(_HEAD, shape.vocab, shape.width) if has_own_head or not shape.tied_head else embedding
    source.finish()
    is_tied = shape.tied_head and _is_same(head, embedding)
    head = head if shape.logit_scale == 1.0 else head * shape.logit_scale
    return Weights(replace(shape, tied_head=is_tied), embedding, layers, final_norm, Linear(head))


def with_vocabulary(weights: Weights, rows: int) -> Weights:
    """The same model with more or fewer rows of padding after its tokens.

    Rows that are missing are never chosen: their logits are the lowest.

    Args:
        weights: The model.
        rows: Rows of its embedding and head.
    """
    missing = max(0, rows - weights.config.vocab)
    embedding = F.pad(weights.embedding[:rows], (0, 0, 0, missing))
    head = F.pad(weights.lm_head.weight[:rows], (0, 0, 0, missing))
    bias = head.new_zeros(rows)
    bias[rows - missing :] = torch.finfo(bias.dtype).min
    config = replace(weights.config, vocab=rows)
    return replace(
        weights, config=config, embedding=embedding, lm_head=Linear(head, bias if missing else None)
    )


def _is_same(head: Tensor, embedding: Tensor) -> bool:
    """Whether a head that the config ties is the embedding; another one is kept, as in transformers."""
    return head is embedding or head.is_meta or torch.equal(head, embedding)


def read_layers(
    shape: DecoderConfig, tensors: Mapping[str, Tensor], prefixes: Sequence[str], device: torch.device
) -> list[Layer]:
    """Single layers from those of the tensors whose names start with the layers' prefixes.

    Raises:
        UserError: If tensors are missing, left over or misshapen.
    """
    starts = tuple(f"{prefix}." for prefix in prefixes)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(starts)}
    source = CheckpointTensors(own, shape.norm_offset, device)
    layers = [_layer(source, shape, prefix) for prefix in prefixes]
    source.finish()
    return layers


def _layer(tensors: CheckpointTensors, shape: DecoderConfig, prefix: str, index: int | None = None) -> Layer:
    """One layer of a model, or for `index` None of a drafter, which has an ordinary MLP."""
    attention = f"{prefix}.self_attn"
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = [
        None if name is None else tensors.norm(f"{prefix}.{name}.weight", shape.width)
        for name in _NORMS[shape.pre_norm, shape.post_norm]
    ]
    query_norm, key_norm = _query_key_norms(tensors, shape, attention)
    if shape.fused:
        qkv = tensors.linear(f"{attention}.qkv_proj", (queries + 2 * keys,), shape.width, shape.qkv_bias)
    else:
        names = [f"{attention}.{name}_proj" for name in "qkv"]
        qkv = tensors.linear(names, (queries, keys, keys), shape.width, shape.qkv_bias)
    moe = None if shape.moe is None or index is None or index in shape.moe.dense_layers else shape.moe
    mlp: Mlp | Moe
    if moe is not None and norms[2] is not None:
        mlp = read_moe(tensors, moe, shape.width, prefix, norms[2])
    else:
        mlp = _mlp(tensors, shape, prefix, norms[2:])
    return Layer(
        attention=Attention(
            norm=norms[0],
            qkv=qkv,
            o=tensors.linear(f"{attention}.o_proj", (shape.width,), queries, shape.output_bias),
            query_norm=query_norm,
            key_norm=key_norm,
            residual=Residual(norms[1], shape.residual_scale),
            score_scale=shape.score_scale,
            is_alternate=shape.alternate is not None and index in shape.alternate.layers,
        ),
        mlp=mlp,
    )


def _mlp(
    tensors: CheckpointTensors, shape: DecoderConfig, prefix: str, norms: Sequence[Tensor | None]
) -> Mlp:
    mlp, width = f"{prefix}.mlp", shape.mlp_width
    if shape.fused:
        gate_up = tensors.linear(f"{mlp}.gate_up_proj", (2 * width,), shape.width, shape.mlp_bias)
    else:
        names = [f"{mlp}.gate_proj", f"{mlp}.up_proj"]
        gate_up = tensors.linear(names, (width,) * 2, shape.width, shape.mlp_bias)
    return Mlp(
        norm=norms[0],
        gate_up=gate_up,
        down=tensors.linear(f"{mlp}.down_proj", (shape.width,), width, shape.mlp_bias),
        residual=Residual(norms[1], shape.residual_scale),
    )


def _query_key_norms(
    tensors: CheckpointTensors, shape: DecoderConfig, attention: str
) -> tuple[Tensor | None, Tensor | None]:
    if not shape.qk_norm:
        return None, None
    heads = (shape.heads, shape.kv_heads) if shape.qk_norm_whole else (1, 1)
    query, key = (
        tensors.norm(f"{attention}.{name}_norm.weight", count * shape.head_dim)
        for name, count in zip("qk", heads, strict=True)
    )
    return query, key
