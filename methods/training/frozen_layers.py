"""Frozen layers with gradients, for training rows that run next to the target's own.

`Decoder.run_layers` writes keys and values in place, which has no gradient: these functions repeat the
arithmetic of one layer. Tests compare their rows with those of decoding.

Shapes: R rows, N visible rows, d width, H query heads, Hkv key/value heads, D head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.delta import Delta
from bench.runtime.layers import dense
from bench.runtime.linear import normed_heads, normed_rows
from bench.runtime.residual import add_output
from bench.runtime.rows import rotate


def query_key_value(
    index: int, rows: Tensor, cos: Tensor, sin: Tensor, decoder: Decoder, delta: Delta | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries [H, R, D], rotated keys and values [Hkv, R, D] of rows [R, d] entering a layer."""
    config, weights = decoder.config, decoder.layers[index].attention
    normed = normed_rows(rows, weights.norm, config.norm_eps)
    qkv = F.linear(normed, weights.qkv.weight, weights.qkv.bias)
    if delta is not None:
        delta.add(index, "qkv", normed, qkv)
    heads = qkv.view(rows.shape[0], -1, config.head_dim)
    queries, keys, values = torch.split(heads, [config.heads, config.kv_heads, config.kv_heads], dim=1)
    if weights.query_norm is not None and weights.key_norm is not None:
        queries = normed_heads(queries, weights.query_norm, config.norm_eps)
        keys = normed_heads(keys, weights.key_norm, config.norm_eps)
    return (
        rotate(queries, cos, sin).transpose(0, 1),
        rotate(keys, cos, sin).transpose(0, 1),
        values.transpose(0, 1),
    )


def attended(
    index: int,
    rows: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    sees: Tensor,
    decoder: Decoder,
    delta: Delta | None = None,
) -> Tensor:
    """The first half of a layer after its projections: attention and its residual.

    Args:
        index: The layer.
        rows: Rows entering it, shape [R, d].
        queries: Their queries, shape [H, R, D].
        keys: Keys of all rows that may be seen, shape [Hkv, N, D].
        values: Values of the same rows, shape [Hkv, N, D].
        sees: ``sees[r, n]`` says whether row r sees row n, shape [R, N], bool.
        decoder: The frozen target.
        delta: Low-rank changes of the projections.

    Returns:
        Rows that enter the layer's MLP, shape [R, d].
    """
    config, layer = decoder.config, decoder.layers[index]
    is_grouped = config.heads != config.kv_heads
    mixed = F.scaled_dot_product_attention(
        queries[None],
        keys[None],
        values[None],
        attn_mask=sees,
        scale=layer.attention.score_scale,
        enable_gqa=is_grouped,
    )
    mixed, by = mixed[0].transpose(0, 1).reshape(rows.shape[0], -1), layer.attention.residual
    return add_output(rows, mixed, layer.attention.o, by, config.norm_eps, delta, (index, "o"))


def fed_forward(index: int, hidden: Tensor, decoder: Decoder, delta: Delta | None = None) -> Tensor:
    """The second half of a layer: rows [R, d] that `attended` returned, after the MLP and its residual."""
    config, mlp = decoder.config, dense(decoder.layers[index].mlp)
    if mlp is None:
        return hidden
    normed = normed_rows(hidden, mlp.norm, config.norm_eps)
    both = F.linear(normed, mlp.gate_up.weight, mlp.gate_up.bias)
    if delta is not None:
        delta.add(index, "gate_up", normed, both)
    gate, up = both.chunk(2, dim=-1)
    inner = (F.silu(gate) if config.activation == "silu" else F.gelu(gate, approximate="tanh")) * up
    down, by = mlp.down, mlp.residual
    return add_output(hidden, inner, down, by, config.norm_eps, delta, (index, "down"))
