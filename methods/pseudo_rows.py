"""Pseudo rows: hidden states of tokens not yet known, from a projection half-way up the target.

Decides where they enter, what they see and what training computes; `methods.hidden_transfer` decodes with
them.

Shapes: k steps, N anchors (real rows that pseudo rows spring from), T positions of a sequence, d width, H
query heads, Hkv key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.runtime.decoder import Attention, Decoder
from bench.runtime.linear import rms_norm
from bench.runtime.rope import rotate

INIT_GAIN = 0.2
"""A pseudo row starts as a short vector; a gain of 1 trained worse on a toy model."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """How pseudo rows come about; the weights depend on it.

    Args:
        layers: Layer that step i enters, ascending, length k; L enters behind the last layer.
        source: What step i projects: its anchor's ``real`` row, or in a ``chain`` step i - 1's pseudo row.
        isolate: Hide earlier steps from later ones (ablation).
    """

    layers: tuple[int, ...]
    source: str = "real"
    isolate: bool = False

    def spans(self, depth: int) -> list[tuple[int, int, int]]:
        """Stretches of layers between entries: active steps, first layer, one past the last."""
        return [(count, *span) for count, span in enumerate(pairwise((0, *self.layers, depth)))]

    def sees(self, real: Tensor) -> Tensor:
        """What the pseudo rows see, step 1 of all anchors first.

        Args:
            real: ``real[n, m]`` says whether anchor n is, or sees, real row m, shape [N, M], bool.

        Returns:
            Columns are the M real rows, then the k N pseudo rows, shape [k N, M + k N], bool.
        """
        steps, count = len(self.layers), real.shape[0]
        earlier = torch.eye(steps) if self.isolate else torch.ones(steps, steps).tril()
        own = torch.kron(earlier, torch.eye(count)).bool().to(real.device)
        return torch.cat([real.repeat(steps, 1), own], dim=1)


class Projections(nn.Module):
    """The trained module: a square matrix per step, no bias; ``k d^2`` parameters."""

    def __init__(self, steps: int, width: int) -> None:
        super().__init__()
        self.projections = nn.Parameter(torch.randn(steps, width, width) * (INIT_GAIN / width**0.5))


def pseudo_rows(
    transfer: Transfer, projections: Tensor, hidden: Mapping[int, Tensor], anchors: Tensor, decoder: Decoder
) -> Tensor:
    """The rows that decoding would compute at each anchor, of all anchors at once and with gradients.

    Args:
        transfer: Where and from what they start.
        projections: Weights of the steps, shape [k, d, d].
        hidden: Real rows [T, d] entering every layer from the first entry on; key L: leaving the last.
        anchors: Positions of the anchors, shape [N].
        decoder: The frozen target.

    Returns:
        Pseudo rows behind the last layer, shape [k, N, d].
    """
    steps, count = len(transfer.layers), anchors.numel()
    total = hidden[decoder.depth].shape[0]
    places = torch.arange(total, device=anchors.device)
    sees = transfer.sees(places <= anchors[:, None])
    offsets = torch.arange(1, steps + 1, device=anchors.device)[:, None]
    places = torch.cat([places, (anchors + offsets).flatten()])  # positions of the columns, [T + k N]
    if decoder.config.window is not None:
        sees &= places > places[total:, None] - decoder.config.window
    rows = hidden[decoder.depth][:0]
    for active, start, stop in transfer.spans(decoder.depth)[1:]:
        is_real = active == 1 or transfer.source == "real"
        source = hidden[start][anchors] if is_real else rows[-count:]
        fresh = F.linear(source.to(projections.dtype), projections[active - 1])
        rows = torch.cat([rows, fresh.to(decoder.dtype)])
        width = active * count
        for layer in range(start, stop):
            rows = _beside(
                layer, rows, hidden[layer], places[: total + width], sees[:width, : total + width], decoder
            )
    return rows.view(steps, count, decoder.config.width)


def _beside(
    index: int, pseudo: Tensor, real: Tensor, places: Tensor, sees: Tensor, decoder: Decoder
) -> Tensor:
    """One layer of pseudo rows [M, d] that attend to the constant real rows [T, d] and to each other.

    `Decoder.run_layers` writes keys and values in place, which has no gradient: this repeats its arithmetic.
    """
    config, layer, total = decoder.config, decoder.layers[index], real.shape[0]
    cos, sin = (table[places] for table in decoder.placement.rotation(0, decoder.capacity))
    with torch.no_grad():
        _, real_keys, real_values = _heads(layer.attention, real, cos[:total], sin[:total], decoder)
    queries, keys, values = _heads(layer.attention, pseudo, cos[total:], sin[total:], decoder)
    mixed = F.scaled_dot_product_attention(
        queries[None],
        torch.cat([real_keys, keys], dim=1)[None],
        torch.cat([real_values, values], dim=1)[None],
        attn_mask=sees,
        enable_gqa=config.heads != config.kv_heads,
    )
    mixed = mixed[0].transpose(0, 1).reshape(pseudo.shape[0], -1)
    hidden = pseudo + F.linear(mixed, layer.attention.o.weight, layer.attention.o.bias)
    if layer.mlp is None:
        return hidden
    normed = rms_norm(hidden, layer.mlp.norm, config.norm_eps)
    gate, up = F.linear(normed, layer.mlp.gate_up.weight, layer.mlp.gate_up.bias).chunk(2, dim=-1)
    inner = F.silu(gate) if config.activation == "silu" else F.gelu(gate, approximate="tanh")
    return hidden + F.linear(inner * up, layer.mlp.down.weight, layer.mlp.down.bias)


def _heads(
    weights: Attention, rows: Tensor, cos: Tensor, sin: Tensor, decoder: Decoder
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries [H, R, D], rotated keys and values [Hkv, R, D] of rows [R, d]."""
    config = decoder.config
    normed = rms_norm(rows, weights.norm, config.norm_eps)
    qkv = F.linear(normed, weights.qkv.weight, weights.qkv.bias).view(rows.shape[0], -1, config.head_dim)
    queries, keys, values = torch.split(qkv, [config.heads, config.kv_heads, config.kv_heads], dim=1)
    if weights.query_norm is not None and weights.key_norm is not None:
        queries = rms_norm(queries, weights.query_norm, config.norm_eps)
        keys = rms_norm(keys, weights.key_norm, config.norm_eps)
    return (
        rotate(queries, cos, sin).transpose(0, 1),
        rotate(keys, cos, sin).transpose(0, 1),
        values.transpose(0, 1),
    )
