"""Miniature GGUF files, with the names, the metadata and the row order of llama.cpp's converter.

The library `gguf` quantises where it can; other types are made of random blocks with a small scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import TokenType
from gguf.constants import GGML_QUANT_SIZES
from torch import Tensor

BLOCK_TYPES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Types that the library only reads, and where in a block its half-precision scales lie."""
PARTS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
SECOND_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
"""In families with norms after the sub-layers."""


def write_gguf(
    path: Path,
    model: Any,
    architecture: str,
    kind: str = "F32",
    *,
    metadata: Mapping[str, Any] | None = None,
    extra: Mapping[str, np.ndarray[Any, Any]] | None = None,
    vocabulary: list[str] | None = None,
    unused: int = 0,
) -> Path:
    """Write a transformers model.

    Args:
        path: File to write.
        model: The model.
        architecture: Its name in GGUF.
        kind: Quantisation of matrices whose rows have whole blocks; others are F32, as llama.cpp has it.
        metadata: More keys, without the architecture's name unless they belong to no architecture.
        extra: More tensors.
        vocabulary: Tokens of a byte-level tokenizer, the last one merged of the first two; none by default.
        unused: How many of the last tokens are padding.
    """
    writer = gguf.GGUFWriter(path, architecture)
    _add_shape(writer, model.config)
    for key, value in (metadata or {}).items():
        is_general = key.startswith(("tokenizer.", "split."))
        _add_value(writer, key if is_general else f"{architecture}.{key}", value)
    if vocabulary is not None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(vocabulary)
        writer.add_token_types([1] * (len(vocabulary) - unused) + [TokenType.UNUSED] * unused)
        writer.add_token_merges([f"{vocabulary[0]} {vocabulary[1]}"])
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        stored = _as_llama_cpp(name, tensor, architecture, model.config)
        _add_tensor(writer, _gguf_name(name, architecture), stored, kind)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_shape(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)


def _add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, bool: writer.add_bool}
    add[type(value)](key, value)


def _gguf_name(name: str, architecture: str) -> str:
    stem, _, ending = name.rpartition(".")
    if stem in PARTS:
        return f"{PARTS[stem]}.{ending}"
    _, _, layer, part = stem.split(".", 3)
    own = PARTS | (SECOND_NORMS if architecture in ("gemma3", "olmo2") else {})
    return f"blk.{layer}.{own[part]}.{ending}"


def _as_llama_cpp(name: str, tensor: Tensor, architecture: str, config: Any) -> np.ndarray[Any, Any]:
    """What the converter makes of a tensor's values."""
    values = tensor.detach().float().numpy()
    has_neighbours = architecture in ("llama", "smollm3", "granite")
    if has_neighbours and ".q_proj." in name:
        return _as_neighbours(values, config.num_attention_heads)
    if has_neighbours and ".k_proj." in name:
        return _as_neighbours(values, config.num_key_value_heads)
    return values + 1 if architecture in ("gemma", "gemma3") and name.endswith("norm.weight") else values


def _as_neighbours(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """`permute` of llama.cpp's convert_hf_to_gguf.py."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray[Any, Any], kind: str) -> None:
    block = GGML_QUANT_SIZES[Kind[kind]][0]
    if kind == "F32" or values.ndim == 1 or values.shape[-1] % block:
        writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
    elif kind == "F16":
        writer.add_tensor(name, values.astype(np.float16))
    elif kind in BLOCK_TYPES:
        writer.add_tensor(name, random_blocks(kind, values.shape), raw_dtype=Kind[kind])
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, Kind[kind]), raw_dtype=Kind[kind])


def random_blocks(kind: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Random blocks of a type, shape [rows, bytes of a row]."""
    block, size = GGML_QUANT_SIZES[Kind[kind]]
    generator = np.random.default_rng(shape[0])
    blocks = generator.integers(0, 256, (shape[0] * shape[1] // block, size), dtype=np.uint8)
    for offset in BLOCK_TYPES[kind]:
        scales = np.full(len(blocks), 1e-4, dtype=np.float16).view(np.uint8).reshape(-1, 2)
        blocks[:, offset : offset + 2] = scales
    return blocks.reshape(shape[0], -1)
