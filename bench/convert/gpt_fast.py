"""Converts gpt-fast's layout of a HAMburger checkpoint to the names and row order of Hugging Face.

gpt-fast has other names for all tensors, fuses queries, keys and values into one tensor, and orders the rows
of each query and key head so that neighbours (0, 1), (2, 3), ... rotate together; Hugging Face rotates row i
of the first half with row i of the second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from bench.runtime.families import DecoderConfig

_WHOLE = {
    "model.tok_embeddings.weight": "model.model.embed_tokens.weight",
    "model.norm.weight": "model.model.norm.weight",
    "model.output.weight": "model.lm_head.weight",
}
_PARTS = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_FUSED = "attention.wqkv"
_LAYER = re.compile(r"(model\.layers|micro_step_decoder\.decoders)\.(\d+)\.(.+)\.weight")


def is_gpt_fast(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors have gpt-fast's names."""
    return "model.tok_embeddings.weight" in tensors


def renamed(tensors: Mapping[str, Tensor], shape: DecoderConfig) -> dict[str, Tensor]:
    """`tensors` under their Hugging Face names; an unknown name is kept, so that a later error names it."""
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer = _LAYER.fullmatch(name)
        if layer is None:
            converted[_WHOLE.get(name, name)] = tensor
            continue
        stack, number, part = layer.groups()
        prefix = f"{'model.model.layers' if stack == 'model.layers' else stack}.{number}."
        if part == _FUSED and tensor.shape[0] == _rows(shape):
            converted |= {f"{prefix}{key}": weight for key, weight in _split(tensor, shape).items()}
        else:
            converted[f"{prefix}{_PARTS.get(part, part)}.weight"] = tensor
    return converted


def halves_from_neighbours(weight: Tensor, heads: int) -> Tensor:
    """Weight [heads D, d] with the rows of each head reordered: the even ones first, then the odd ones."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def _rows(shape: DecoderConfig) -> int:
    return (shape.heads + 2 * shape.kv_heads) * shape.head_dim


def _split(fused: Tensor, shape: DecoderConfig) -> dict[str, Tensor]:
    keys = shape.kv_heads * shape.head_dim
    query, key, value = torch.split(fused, [shape.heads * shape.head_dim, keys, keys])
    return {
        "self_attn.q_proj.weight": halves_from_neighbours(query, shape.heads),
        "self_attn.k_proj.weight": halves_from_neighbours(key, shape.kv_heads),
        "self_attn.v_proj.weight": value,
    }
