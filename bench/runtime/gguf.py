"""Checkpoints in one GGUF file, as llama.cpp writes them: the header, and the weights by transformers' names.

The library `gguf` reads the file and dequantises. Undone here is what llama.cpp's converter does to tensors:
it renames them, orders the rows of some families' queries and keys for its own rotary embedding, and adds one
to Gemma's norms. Tensors are dequantised when they are taken, one after the other. What is not in the tables
is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, ReaderTensor
from gguf.quants import dequantize
from torch import Tensor

from bench.errors import UserError
from bench.runtime.gguf_header import TOKEN_KINDS, require_bounded, used_tokens
from bench.runtime.stored_tensors import finite

QUANTISATIONS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
ARCHITECTURES = ("llama", "qwen2", "qwen3", "phi3", "gemma", "gemma3", "smollm3", "granite", "olmo2")
"""Values of ``general.architecture``; llama.cpp converts Mistral as ``llama``."""
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Parts of the model and of a layer: their names in GGUF and in transformers."""
_OWN = {
    ("phi3", "ffn_up"): "mlp.gate_up_proj",  # gate and up in one matrix, as in its checkpoint
    ("gemma3", "post_attention_norm"): "post_attention_layernorm",
    ("gemma3", "ffn_norm"): "pre_feedforward_layernorm",
    ("gemma3", "post_ffw_norm"): "post_feedforward_layernorm",
    ("olmo2", "post_attention_norm"): "post_attention_layernorm",
    ("olmo2", "post_ffw_norm"): "post_feedforward_layernorm",
}
"""Likewise, of single architectures."""
_AS_NEIGHBOURS = ("llama", "smollm3", "granite")
"""Architectures whose queries and keys are stored with the two channels of a rotated pair as neighbours."""
_RAISED_NORMS = ("gemma", "gemma3")
"""Architectures whose norms are stored with one added."""
ROTARY = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
"""Tensors that belong to the configuration, see `bench.runtime.gguf_config`."""
_END_TOKENS = ("eos", "eot", "eom")


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What stands in a file's header, and its tensors, mapped into memory and not read.

    Args:
        path: The file.
        metadata: Single values by key; lists, such as the vocabulary, are left out.
        tensors: By their names in the file.
        header_bytes: Where the first tensor begins.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, ReaderTensor]
    header_bytes: int

    @property
    def architecture(self) -> str:
        """One of `ARCHITECTURES`."""
        return str(self.metadata["general.architecture"])

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - of any type that the file gives it
        """A value of the architecture's own, by its key without the architecture's name."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def require(self, key: str) -> Any:  # noqa: ANN401 - as above
        """As `get`, for a value that the file must hold."""
        value = self.get(key)
        if value is None:
            raise UserError(
                f"{self.path} does not say its {self.architecture}.{key}",
                "convert the model again with llama.cpp's convert_hf_to_gguf.py",
            )
        return value


class GgufTensors:
    """The weights by the names of transformers, each one dequantised when it is taken.

    Args:
        file: The file.
        place: Where the tensor of a name goes.
        dtype: Of the tensors.
    """

    def __init__(self, file: GgufFile, place: Callable[[str], torch.device], dtype: torch.dtype) -> None:
        self._file, self._place, self._dtype = file, place, dtype
        names = [name for name in file.tensors if name not in ROTARY]
        self._left = {transformers_name(name, file.architecture): name for name in names}

    def __iter__(self) -> Iterator[str]:
        return iter(self._left)

    def pop(self, name: str, default: None, /) -> Tensor | None:
        """The tensor of that name, which is then no longer among these; None if there is none."""
        stored = self._left.pop(name, None)
        if stored is None:
            return default
        values = gguf_values(self._file.tensors[stored])
        if self._file.architecture in _AS_NEIGHBOURS and re.search(r"\.attn_[qk]\.", stored):
            is_query = ".attn_q." in stored
            heads = self._file.require("attention.head_count")
            values = _as_halves(
                values, heads if is_query else self._file.get("attention.head_count_kv", heads)
            )
        if self._file.architecture in _RAISED_NORMS and stored.endswith("norm.weight"):
            values = values - 1
        tensor = torch.from_numpy(np.ascontiguousarray(values)).to(self._place(name), self._dtype)
        return finite(tensor, f"{self._file.path}: {stored}")


def read_gguf(path: Path) -> GgufFile:
    """Read the header of a file; a file that was read before and has not changed is not read again.

    Raises:
        UserError: If it is damaged, a part of several files, or of an architecture or a quantisation that is
            not supported.
    """
    state = path.stat()
    return _read(path, state.st_mtime_ns, state.st_size)


def gguf_end_ids(file: GgufFile) -> frozenset[int]:
    """Tokens that the file's metadata name as the end of a text, a turn or a message."""
    ids = [file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in _END_TOKENS]
    return frozenset(token for token in ids if token is not None)


def gguf_tokens(file: GgufFile) -> int | None:
    """`used_tokens` of the tokenizer in the file; None if it holds none."""
    kinds = GGUFReader(file.path).fields.get(TOKEN_KINDS)
    if kinds is None or kinds.types[0] != GGUFValueType.ARRAY:
        return None
    return used_tokens(kinds.contents())


def gguf_shapes(file: GgufFile) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights by the names of transformers, outputs first."""
    return {
        transformers_name(name, file.architecture): tuple(int(size) for size in reversed(tensor.shape))
        for name, tensor in file.tensors.items()
        if name not in ROTARY
    }


def gguf_values(tensor: ReaderTensor) -> np.ndarray[Any, Any]:
    """A tensor in fp32, in the order of transformers: outputs first."""
    if tensor.tensor_type == GGMLQuantizationType.F32:
        return np.array(tensor.data)  # a copy: the mapped file is not writable
    return dequantize(tensor.data, tensor.tensor_type)


def transformers_name(name: str, architecture: str) -> str:
    """A tensor's name in transformers; an unknown one keeps its own, and loading refuses it."""
    part, _, kind = name.rpartition(".")
    if part in _OUTSIDE:
        return f"{_OUTSIDE[part]}.{kind}"
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", part)
    inside = None if layer is None else _OWN.get((architecture, layer[2]), _INSIDE.get(layer[2]))
    if layer is None or inside is None:
        return name
    return f"model.layers.{layer[1]}.{inside}.{kind}"


@lru_cache(maxsize=4)
def _read(path: Path, changed_ns: int, size: int) -> GgufFile:
    require_bounded(path)
    try:
        reader = GGUFReader(path)
        fields = {key: field for key, field in reader.fields.items() if field.types[0] != GGUFValueType.ARRAY}
        metadata = {key: field.contents() for key, field in fields.items()}
    except (ValueError, KeyError, IndexError, OSError, ArithmeticError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as GGUF: {(str(error) or repr(error)).splitlines()[0]}",
            "download it again; it is damaged, cut short or newer than the installed gguf package",
        ) from error
    file = GgufFile(
        path, metadata, {tensor.name: tensor for tensor in reader.tensors}, int(reader.data_offset)
    )
    _require_supported(file, is_swapped=reader.byte_order != "I")
    return file


def _require_supported(file: GgufFile, *, is_swapped: bool) -> None:
    """Refuse by name what would otherwise be read wrongly."""
    architecture = file.metadata.get("general.architecture")
    experts = file.metadata.get(f"{architecture}.expert_count", 0)
    if architecture not in ARCHITECTURES or experts:
        mixture = f" with {experts} experts" if experts else ""
        raise UserError(
            f"{file.path}: GGUF architecture {architecture}{mixture} is not supported",
            f"use a file of one of: {', '.join(ARCHITECTURES)} (Llama and Mistral are both llama)",
        )
    if file.metadata.get("split.count", 0) > 1 or is_swapped or "token_embd.weight" not in file.tensors:
        raise UserError(
            f"{file.path} is one of several parts, of another byte order, or holds no model",
            "join parts with 'llama-gguf-split --merge', or download the model as one file",
        )
    kinds = {tensor.tensor_type.name for tensor in file.tensors.values()}
    unknown = sorted(kinds - set(QUANTISATIONS))
    if unknown:
        raise UserError(
            f"{file.path}: tensors of type {', '.join(unknown)} are not supported",
            f"use a file of these types: {', '.join(QUANTISATIONS)}",
        )


def _as_halves(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of a query or key projection, or its bias, from rotated pairs as neighbours to pairs as halves."""
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)
