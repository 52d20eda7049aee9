"""From an ordinary Hugging Face checkpoint, or a GGUF file, to a decoder.

Weights come from safetensors (one file or an index of shards), shapes and flags from ``config.json``; a GGUF
file (`bench.runtime.gguf`) holds both. Loading is strict: every missing, unexpected or misshapen tensor is
named. Pickled ``.bin`` weights are refused with the way to convert.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig

from bench.errors import UserError
from bench.runtime.cache import KVCache
from bench.runtime.decoder import Attention, Decoder, Layer, Mlp, Tier
from bench.runtime.families import FAMILIES, DecoderConfig, decoder_config
from bench.runtime.gguf import GgufTensors, is_gguf, read_gguf
from bench.runtime.gguf_config import gguf_config
from bench.runtime.linear import Linear
from bench.runtime.room import damaged, require_room
from bench.runtime.rope import rotary_tables
from bench.runtime.rows import Placement
from bench.runtime.tiers.compiled import CompiledDecoder
from bench.runtime.tiers.eager import EagerDecoder
from bench.runtime.tiers.graphs import GraphDecoder
from bench.runtime.tiers.native.build import Missing, library
from bench.runtime.tiers.recorder import CudaRecorder
from bench.runtime.tiers.slot_cache import SlotCache

_KINDS = {"eager": EagerDecoder, "static": Decoder, "compiled": CompiledDecoder}
_IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """How a model is laid out in memory.

    Args:
        device: Where it runs.
        dtype: Of weights and cache.
        max_length: Most tokens of prompt and output together; bounded by the model's context.
        tier: How passes run: ``eager``, ``static``, (on a CPU) ``compiled`` or (on CUDA) ``graph``.
    """

    device: torch.device
    dtype: torch.dtype
    max_length: int
    tier: Tier = "static"


def choose_tier(wanted: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Tier:
    """The tier of that name; for ``auto`` the fastest one that the device has for this precision.

    Raises:
        UserError: If graphs are asked for without CUDA, or compiled passes where there are none.
    """
    if wanted == "graph" and device.type != "cuda":
        raise UserError(
            "runtime.tier=graph replays CUDA graphs, and this run is on the CPU",
            "use runtime.tier=auto, the fastest there, or runtime.device=cuda",
        )
    obstacle = _obstacle_to_compiling(device, dtype)
    if wanted == "compiled" and obstacle is not None:
        raise UserError(f"runtime.tier=compiled is not possible: {obstacle[0]}", obstacle[1])
    on_cpu: Tier = "static" if obstacle is not None else "compiled"
    fastest: Tier = "graph" if device.type == "cuda" else on_cpu
    tiers: dict[str, Tier] = {one: one for one in get_args(Tier)}
    return fastest if wanted == "auto" else tiers[wanted]


def _obstacle_to_compiling(device: torch.device, dtype: torch.dtype) -> tuple[str, str] | None:
    """Why passes cannot be compiled, and what to do about it."""
    if device.type != "cpu" or dtype != torch.float32:
        return f"it decodes in float32 on a CPU, not in {dtype} on {device.type}", "use runtime.tier=auto"
    built = library()
    if isinstance(built, Missing):
        return built.reason, "install gcc or clang with OpenMP, or use runtime.tier=static"
    return None


def load_decoder(folder: Path, options: RuntimeOptions) -> Decoder:
    """Load the checkpoint in `folder`, or in the GGUF file of that path.

    Raises:
        UserError: If files are missing, pickled, of an unsupported architecture, larger than the memory, or
            do not fit the config.
    """
    config = load_config(folder)
    require_room(weight_files(folder), options.device, options.dtype)
    if is_gguf(folder):
        return build_decoder(config, GgufTensors(read_gguf(folder), options.device, options.dtype), options)
    return build_decoder(config, dict(_tensors(folder, options)), options)


def load_config(folder: Path) -> Any:  # noqa: ANN401
    """The transformers configuration in `folder`, of an architecture that the decoder runs.

    Raises:
        UserError: If there is none, it cannot be read, or the architecture is not supported.
    """
    if not (folder / "config.json").is_file() and not is_gguf(folder):
        raise UserError(
            f"{folder} holds no config.json, so it is not a Hugging Face checkpoint",
            "point model.path at a folder with config.json and *.safetensors, a .gguf file, or a hub id",
        )
    config = gguf_config(read_gguf(folder)) if is_gguf(folder) else _read_config(folder)
    decoder_config(config)  # refuses before gigabytes are read
    return config


def _read_config(folder: Path) -> Any:  # noqa: ANN401
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, OSError) as error:  # not JSON, or a model_type that transformers does not know
        raise UserError(
            f"{folder}/config.json cannot be read by transformers: {str(error).splitlines()[0]}",
            f"use an intact checkpoint of one of: {', '.join(FAMILIES)}",
        ) from error


class TensorStore(Protocol):
    """Tensors by name, each to be taken once: a dictionary, or a file that reads them when they are taken."""

    def pop(self, name: str, default: None, /) -> Tensor | None: ...

    def __iter__(self) -> Iterator[str]: ...


def build_decoder(config: Any, tensors: TensorStore, options: RuntimeOptions) -> Decoder:  # noqa: ANN401
    """Build a decoder from a transformers configuration and named tensors.

    Args:
        config: The transformers configuration.
        tensors: Checkpoint tensors by name; consumed, so that each original can be freed once it is fused.
        options: Device, dtype and length.

    Raises:
        UserError: If the tensors do not fit the configuration.
    """
    shape = decoder_config(config)
    source = _Source(shape, tensors, options.device)
    embedding = source.take("model.embed_tokens.weight", shape.vocab, shape.width)
    layers = [_layer(source, shape, index) for index in range(shape.layers)]
    final_norm = source.norm("model.norm.weight", shape.width)
    if shape.tied_head:
        tensors.pop("lm_head.weight", None)
        lm_head = Linear(embedding)
    else:
        lm_head = source.linear("lm_head", (shape.vocab,), shape.width)
    source.finish()
    capacity = min(options.max_length, shape.context)
    cos, sin = rotary_tables(config, shape.head_dim, capacity, options.dtype, options.device)
    placement = Placement(cos, sin, shape.heads // shape.kv_heads, shape.window)
    room = (shape.layers, shape.kv_heads, capacity, shape.head_dim, options.dtype, options.device)
    weights = (shape, embedding, layers, final_norm, lm_head)
    if options.tier == "graph":
        return GraphDecoder(*weights, SlotCache(*room), placement, CudaRecorder(options.device))
    return _KINDS[options.tier](*weights, KVCache(*room), placement)


def _layer(source: _Source, shape: DecoderConfig, index: int) -> Layer:
    prefix = f"model.layers.{index}"
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if shape.fused:
        qkv = source.linear(f"{attention}.qkv_proj", (queries + 2 * keys,), shape.width, shape.qkv_bias)
        gate_up = source.linear(f"{mlp}.gate_up_proj", (2 * shape.mlp_width,), shape.width, shape.mlp_bias)
    else:
        names = [f"{attention}.{name}_proj" for name in "qkv"]
        qkv = source.linear(names, (queries, keys, keys), shape.width, shape.qkv_bias)
        names = [f"{mlp}.gate_proj", f"{mlp}.up_proj"]
        gate_up = source.linear(names, (shape.mlp_width,) * 2, shape.width, shape.mlp_bias)
    return Layer(
        attention=Attention(
            norm=source.norm(f"{prefix}.input_layernorm.weight", shape.width),
            qkv=qkv,
            o=source.linear(f"{attention}.o_proj", (shape.width,), queries, shape.output_bias),
            query_norm=source.norm(f"{attention}.q_norm.weight", shape.head_dim) if shape.qk_norm else None,
            key_norm=source.norm(f"{attention}.k_norm.weight", shape.head_dim) if shape.qk_norm else None,
        ),
        mlp=Mlp(
            norm=source.norm(f"{prefix}.post_attention_layernorm.weight", shape.width),
            gate_up=gate_up,
            down=source.linear(f"{mlp}.down_proj", (shape.width,), shape.mlp_width, shape.mlp_bias),
        ),
    )


class _Source:
    """Takes tensors by name, checks shapes, and in the end accounts for every one."""

    def __init__(self, shape: DecoderConfig, tensors: TensorStore, device: torch.device) -> None:
        self._offset = shape.norm_offset
        self._device = device
        self._tensors = tensors
        self._problems: list[str] = []

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor called `name`; a problem is noted, and reported together with all others by `finish`."""
        tensor = self._tensors.pop(name, None)
        if tensor is None:
            self._problems.append(f"{name} is missing")
            return torch.zeros(shape, device=self._device)
        if tuple(tensor.shape) != shape:
            self._problems.append(f"{name} has shape {tuple(tensor.shape)} instead of {shape}")
            return torch.zeros(shape, device=self._device)
        return tensor

    def norm(self, name: str, width: int) -> Tensor:
        weight = self.take(name, width)
        return weight + self._offset if self._offset else weight

    def linear(
        self, names: str | list[str], outputs: tuple[int, ...], inputs: int, bias: bool = False
    ) -> Linear:
        """One projection, or several fused along their outputs."""
        names = [names] if isinstance(names, str) else names
        sized = list(zip(names, outputs, strict=True))
        weight = _joined([self.take(f"{name}.weight", rows, inputs) for name, rows in sized])
        if not bias:
            return Linear(weight)
        return Linear(weight, _joined([self.take(f"{name}.bias", rows) for name, rows in sized]))

    def finish(self) -> None:
        """Raise if anything was missing, misshapen or left over."""
        left = [name for name in self._tensors if not name.endswith(_IGNORED_SUFFIXES)]
        self._problems += [f"{name} is unexpected" for name in left]
        if self._problems:
            shown = "; ".join(self._problems[:6])
            more = f"; and {len(self._problems) - 6} more" if len(self._problems) > 6 else ""
            raise UserError(
                f"the weights do not fit config.json: {shown}{more}",
                "check that weights and config.json are of the same model and the download is complete",
            )


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _tensors(folder: Path, options: RuntimeOptions) -> Iterator[tuple[str, Tensor]]:
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt", device=str(options.device)) as opened:
                for name in opened.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                    yield name, opened.get_tensor(name).to(options.dtype)
        except SafetensorError as error:
            raise damaged(file, error) from error


def weight_files(folder: Path) -> list[Path]:
    """Safetensors files of a checkpoint, from its index where there is one; a GGUF file is its own.

    Raises:
        UserError: If there are none, or the index names a file that is not there.
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
