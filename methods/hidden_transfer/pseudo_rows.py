"""Pseudo rows: hidden states of tokens not yet known, from a projection half-way up the target.

Decides where they enter, what they see and what training computes; `methods.hidden_transfer.draft` decodes
with them.

Shapes: k steps, N anchors (real rows that pseudo rows spring from), T positions of a sequence, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from methods.training.frozen_layers import finish_layer, query_key_value

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
    """One layer of pseudo rows [M, d] that attend to the constant real rows [T, d] and to each other."""
    total = real.shape[0]
    cos, sin = (table[places] for table in decoder.placement.rotation(0, decoder.capacity))
    with torch.no_grad():
        _, real_keys, real_values = query_key_value(index, real, cos[:total], sin[:total], decoder)
    queries, keys, values = query_key_value(index, pseudo, cos[total:], sin[total:], decoder)
    keys, values = torch.cat([real_keys, keys], dim=1), torch.cat([real_values, values], dim=1)
    return finish_layer(index, pseudo, queries, keys, values, sees, decoder)
