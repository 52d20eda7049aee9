"""Pseudo rows: hidden states of tokens not yet known, from a projection partway up the target's layers.

Says where they enter and what they see, and computes those of many positions at once, for training and
calibration; `methods.hidden_transfer.draft` decodes with them.

Shapes: k steps, N anchors (real rows that pseudo rows start from), T positions of one or several sequences,
d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.decoder import Decoder
from methods.training.frozen_layers import attended, fed_forward, query_key_value

STEPS = 3
ENTER = 0.625
"""Share of the depth at which new projections enter."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """How pseudo rows are made; the weights depend on it.

    Args:
        layers: Layer that step i enters, ascending, length k; L enters after the last layer.
        source: What step i projects: its anchor's ``real`` row, or in a ``chain`` step i - 1's pseudo row.
        isolate: Hide earlier steps from later ones (ablation).
    """

    layers: tuple[int, ...]
    source: str = "real"
    isolate: bool = False

    def spans(self, depth: int) -> list[tuple[int, int, int]]:
        """Spans of layers between entries: active steps, first layer, one past the last layer."""
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


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """A transfer as configured, for a model of any depth.

    Args:
        steps: Drafted positions (k); None leaves it to the trained weights, else 3.
        enter: Share of the depth at which step 1 enters, in [0, 1]; None likewise, else 5/8.
        stride: Layers between the entries of consecutive steps; None likewise, else 0.
        source: See `Transfer`.
        isolate: See `Transfer`.
    """

    steps: int | None
    enter: float | None
    stride: int | None
    source: str
    isolate: bool

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.enter is not None and not 0 <= self.enter <= 1:
            raise ValueError(f"enter must lie in [0, 1], got {self.enter}")
        if self.stride is not None and self.stride < 0:
            raise ValueError(f"stride must be at least 0, got {self.stride}")
        if self.source not in ("real", "chain"):
            raise ValueError(f"source must be real or chain, got {self.source!r}")

    def transfer(self, depth: int, trained: tuple[int, ...] | None = None) -> Transfer:
        """The transfer in a model of `depth` layers.

        Args:
            depth: Layers of the model (L).
            trained: Layers that the trained weights enter; they fill in what the settings leave open.
        """
        like = trained or (round(ENTER * depth),) * STEPS
        steps = len(like) if self.steps is None else self.steps
        first = like[0] if self.enter is None else round(self.enter * depth)
        stride = like[min(1, len(like) - 1)] - like[0] if self.stride is None else self.stride
        layers = tuple(min(first + step * stride, depth) for step in range(steps))
        return Transfer(layers, self.source, self.isolate)


def pseudo_rows(
    transfer: Transfer,
    projections: Tensor,
    hidden: Mapping[int, Tensor],
    positions: Tensor,
    anchors: Tensor,
    decoder: Decoder,
) -> Tensor:
    """The rows that decoding would compute at each anchor, of all anchors at once and with gradients.

    Args:
        transfer: Where and from what they start.
        projections: Weights of the steps, shape [k, d, d].
        hidden: Real rows [T, d] entering every layer from the first entry on; key L, of rows that leave the
            last, is read only if a step enters there.
        positions: Their positions, shape [T]; each 0 begins another sequence.
        anchors: Indices of the anchors among them, shape [N].
        decoder: The frozen target.

    Returns:
        Pseudo rows after the last layer, shape [k, N, d].
    """
    steps, count, total = len(transfer.layers), anchors.numel(), positions.numel()
    index, at = torch.arange(total, device=anchors.device), positions[anchors]
    sees = transfer.sees((index <= anchors[:, None]) & (index >= (anchors - at)[:, None]))
    offsets = torch.arange(1, steps + 1, device=anchors.device)[:, None]
    places = torch.cat([positions, (at + offsets).flatten()])  # positions of the columns, [T + k N]
    rows = hidden[transfer.layers[0]][:0]
    for active, start, stop in transfer.spans(decoder.depth)[1:]:
        is_real = active == 1 or transfer.source == "real"
        source = hidden[start][anchors] if is_real else rows[-count:]
        fresh = F.linear(source.to(projections.dtype), projections[active - 1])
        rows = torch.cat([rows, fresh.to(decoder.dtype)])
        width = active * count
        for layer in range(start, stop):
            rows = _pseudo_layer(
                layer, rows, hidden[layer], places[: total + width], sees[:width, : total + width], decoder
            )
    return rows.view(steps, count, decoder.config.width)


def _pseudo_layer(
    index: int, pseudo: Tensor, real: Tensor, places: Tensor, sees: Tensor, decoder: Decoder
) -> Tensor:
    """One layer of pseudo rows [M, d] that attend to the constant real rows [T, d] and to each other."""
    total = real.shape[0]
    place = decoder.placement.of(decoder.layers[index].attention.is_alternate)
    cos, sin = (table[places] for table in place.rotation(0, decoder.capacity))
    if place.window is not None:
        sees = sees & (places > places[total:, None] - place.window)
    with torch.no_grad():
        _, real_keys, real_values = query_key_value(index, real, cos[:total], sin[:total], decoder)
    queries, keys, values = query_key_value(index, pseudo, cos[total:], sin[total:], decoder)
    keys, values = torch.cat([real_keys, keys], dim=1), torch.cat([real_values, values], dim=1)
    pseudo = attended(index, pseudo, queries, keys, values, sees, decoder)
    return fed_forward(index, pseudo, decoder)
