"""From an ordinary Hugging Face checkpoint, or a GGUF file, to a decoder.

Weights come from safetensors (one file or an index of shards), shapes and flags from ``config.json``; a GGUF
file (`bench.runtime.gguf`) holds both. Loading is strict: every missing, unexpected or misshapen tensor is
named. Pickled ``.bin`` weights are refused; the message says how to convert them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig

from bench.errors import UserError
from bench.runtime.cache import KVCache
from bench.runtime.decoder import Attention, Decoder, Layer, Mlp, Tier, Weights
from bench.runtime.families import FAMILIES, DecoderConfig, decoder_config
from bench.runtime.gguf import GgufTensors, read_gguf
from bench.runtime.gguf_config import gguf_config
from bench.runtime.hub import is_gguf
from bench.runtime.linear import Linear
from bench.runtime.modules import CheckpointTensors, TensorStore, damaged, require_room
from bench.runtime.rows import Placement, rotary_tables
from bench.runtime.tiers.compiled.decoder import CompiledDecoder
from bench.runtime.tiers.compiled.library import Missing, library
from bench.runtime.tiers.eager import EagerDecoder
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.runtime.tiers.graph.recorder import CudaRecorder
from bench.runtime.tiers.graph.slot_cache import SlotCache

_KINDS = {"eager": EagerDecoder, "static": Decoder, "compiled": CompiledDecoder}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Where and how a model runs.

    Args:
        device: Of weights and cache.
        dtype: Of weights and cache.
        max_length: Most tokens of prompt and output together; the model's context is a limit too.
        tier: How passes run: ``eager``, ``static``, ``compiled`` (fp32 on a CPU) or ``graph`` (CUDA).
    """

    device: torch.device
    dtype: torch.dtype
    max_length: int
    tier: Tier = "static"


def choose_tier(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Tier:
    """The tier called `name`; for ``auto`` the fastest one that runs on this device in this precision.

    Logs a warning if ``auto`` is slower only because the C library is missing.

    Raises:
        UserError: If ``graph`` is chosen without CUDA, or ``compiled`` where compiled passes cannot run.
    """
    if name == "graph" and device.type != "cuda":
        raise UserError(
            "runtime.tier=graph replays CUDA graphs, and this run is on the CPU",
            "use runtime.tier=auto, the fastest there, or runtime.device=cuda",
        )
    if name == "compiled":
        _require_compiled(device, dtype)
    tiers: dict[str, Tier] = {tier: tier for tier in get_args(Tier)}
    return tiers[name] if name != "auto" else _fastest(device, dtype)


def _require_compiled(device: torch.device, dtype: torch.dtype) -> None:
    if device.type != "cpu" or dtype != torch.float32:
        raise UserError(
            "runtime.tier=compiled is not possible: "
            f"it decodes in float32 on a CPU, not in {dtype} on {device.type}",
            "use runtime.tier=auto",
        )
    built = library()
    if isinstance(built, Missing):
        raise UserError(
            f"runtime.tier=compiled is not possible: {built.reason}",
            "install gcc or clang with OpenMP, or use runtime.tier=static",
        )


def _fastest(device: torch.device, dtype: torch.dtype) -> Tier:
    if device.type == "cuda":
        return "graph"
    if device.type != "cpu" or dtype != torch.float32:
        return "static"
    built = library()
    if isinstance(built, Missing):
        log.warning("passes run operation by operation, several times slower: %s; install gcc", built.reason)
        return "static"
    return "compiled"


def load_decoder(folder: Path, options: RuntimeOptions) -> Decoder:
    """Load a checkpoint.

    Args:
        folder: With ``config.json`` and safetensors weights; or a GGUF file.
        options: Where and how it runs.

    Raises:
        UserError: If files are missing, damaged, pickled, of an unsupported architecture, larger than the
            memory, or do not fit the config.
    """
    config = load_config(folder)
    require_room(weight_files(folder), options.device, options.dtype)
    if is_gguf(folder):
        return build_decoder(config, GgufTensors(read_gguf(folder), options.device, options.dtype), options)
    return build_decoder(config, dict(_tensors(folder, options)), options)


def load_config(folder: Path) -> Any:  # noqa: ANN401
    """The transformers configuration in `folder`, checked to be of an architecture that the decoder runs.

    Raises:
        UserError: If there is no ``config.json``, it cannot be read, or the architecture is not supported.
    """
    if not (folder / "config.json").is_file() and not is_gguf(folder):
        raise UserError(
            f"{folder} holds no config.json, so it is not a Hugging Face checkpoint",
            "point model.path at a folder with config.json and *.safetensors, a .gguf file, or a hub id",
        )
    config = gguf_config(read_gguf(folder)) if is_gguf(folder) else _read_config(folder)
    decoder_config(config)  # refuses an unsupported one before gigabytes are read
    return config


def _read_config(folder: Path) -> Any:  # noqa: ANN401
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, OSError) as error:  # not JSON, or a model_type that transformers does not know
        raise UserError(
            f"{folder}/config.json cannot be read by transformers: {str(error).splitlines()[0]}",
            f"use an intact checkpoint of one of: {', '.join(FAMILIES)}",
        ) from error


def build_decoder(config: Any, tensors: TensorStore, options: RuntimeOptions) -> Decoder:  # noqa: ANN401
    """Build a decoder from a transformers configuration and named tensors.

    Args:
        config: The transformers configuration.
        tensors: Checkpoint tensors by name, in the dtype and on the device of `options`. They are removed
            from the dictionary, so that each can be freed once it is fused.
        options: Where and how the decoder runs.

    Raises:
        UserError: If the tensors do not fit the configuration.
    """
    shape = decoder_config(config)
    weights = read_weights(shape, tensors, options.device)
    capacity = min(options.max_length, shape.context)
    cos, sin = rotary_tables(config, shape.head_dim, capacity, options.dtype, options.device)
    placement = Placement(cos, sin, shape.heads // shape.kv_heads, shape.window)
    slots = (shape.layers, shape.kv_heads, capacity, shape.head_dim, options.dtype, options.device)
    if options.tier == "graph":
        return GraphDecoder(weights, SlotCache(*slots), placement, CudaRecorder(options.device))
    return _KINDS[options.tier](weights, KVCache(*slots), placement)


def read_weights(shape: DecoderConfig, tensors: TensorStore, device: torch.device) -> Weights:
    """The weights of a model from its named tensors, which are removed from the dictionary as they are used.

    Raises:
        UserError: If the tensors do not fit the shape.
    """
    source = CheckpointTensors(tensors, shape.norm_offset, device)
    embedding = source.take("model.embed_tokens.weight", shape.vocab, shape.width)
    layers = [_layer(source, shape, f"model.layers.{index}") for index in range(shape.layers)]
    final_norm = source.norm("model.norm.weight", shape.width)
    if shape.tied_head:
        tensors.pop("lm_head.weight", None)
        lm_head = Linear(embedding)
    else:
        lm_head = source.linear("lm_head", (shape.vocab,), shape.width)
    source.finish()
    return Weights(shape, embedding, layers, final_norm, lm_head)


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


def _layer(tensors: CheckpointTensors, shape: DecoderConfig, prefix: str) -> Layer:
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if shape.fused:
        qkv = tensors.linear(f"{attention}.qkv_proj", (queries + 2 * keys,), shape.width, shape.qkv_bias)
        gate_up = tensors.linear(f"{mlp}.gate_up_proj", (2 * shape.mlp_width,), shape.width, shape.mlp_bias)
    else:
        names = [f"{attention}.{name}_proj" for name in "qkv"]
        qkv = tensors.linear(names, (queries, keys, keys), shape.width, shape.qkv_bias)
        names = [f"{mlp}.gate_proj", f"{mlp}.up_proj"]
        gate_up = tensors.linear(names, (shape.mlp_width,) * 2, shape.width, shape.mlp_bias)
    return Layer(
        attention=Attention(
            norm=tensors.norm(f"{prefix}.input_layernorm.weight", shape.width),
            qkv=qkv,
            o=tensors.linear(f"{attention}.o_proj", (shape.width,), queries, shape.output_bias),
            query_norm=tensors.norm(f"{attention}.q_norm.weight", shape.head_dim) if shape.qk_norm else None,
            key_norm=tensors.norm(f"{attention}.k_norm.weight", shape.head_dim) if shape.qk_norm else None,
        ),
        mlp=Mlp(
            norm=tensors.norm(f"{prefix}.post_attention_layernorm.weight", shape.width),
            gate_up=gate_up,
            down=tensors.linear(f"{mlp}.down_proj", (shape.width,), shape.mlp_width, shape.mlp_bias),
        ),
    )


def _tensors(folder: Path, options: RuntimeOptions) -> Iterator[tuple[str, Tensor]]:
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt", device=str(options.device)) as opened:
                for name in opened.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                    yield name, opened.get_tensor(name).to(options.dtype)
        except SafetensorError as error:
            raise damaged(file, error) from error


def weight_files(folder: Path) -> list[Path]:
    """Safetensors files of a checkpoint: those of its index if it has one; a GGUF file is its own.

    Raises:
        UserError: If there are none, or the index names a file that is missing.
    """
    if is_gguf(folder):
        return [folder]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"{index} names {', '.join(missing[:3])}, which {folder} does not hold",
                "finish the download: all shards of the index must be there",
            )
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if sorted(folder.glob("*.bin")):
        raise UserError(
            f"{folder} holds pickled .bin weights, which can run code when they are loaded",
            f"convert them once: python -m bench.convert kind=checkpoint model.path={folder} out=FOLDER, "
            "then set model.path=FOLDER",
        )
    raise UserError(
        f"{folder} holds no model.safetensors", "finish the download or point model.path elsewhere"
    )
