"""The accelerated stream of M2R2: its trained module, and its rows of a whole sequence with gradients.

Shapes: n layers of the interval, T positions, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from methods.m2r2.arla import Arla
from methods.m2r2.low_rank import LowRank
from methods.training.frozen_layers import finish_layer, query_key_value


class AcceleratedStream(nn.Module):
    """The trained module: low-rank changes of the interval's layers, and the gate that reads their rows."""

    def __init__(
        self, decoder: Decoder, interval: tuple[int, int], which: str, targets: list[str], rank: int
    ) -> None:
        super().__init__()
        start, stop = interval
        layers = range(start, stop) if which == "all" else range(stop - 1, stop)
        self.adapters = LowRank(decoder, layers, targets, rank)
        self.arla = Arla(stop - start, decoder.config.width)


def accelerated_rows(
    adapters: Any,  # noqa: ANN401 - a Delta that is a module
    hidden: Mapping[int, Tensor],
    interval: tuple[int, int],
    decoder: Decoder,
) -> list[Tensor]:
    """The rows that decoding would accelerate at every position, of all positions at once, with gradients.

    Args:
        adapters: Trained changes.
        hidden: Slow rows [T, d] entering every layer of the interval.
        interval: First layer, and one past the last (s, e).
        decoder: The frozen target.

    Returns:
        Accelerated rows behind each layer of the interval, each of shape [T, d].
    """
    count = hidden[interval[0]].shape[0]
    cos, sin = decoder.placement.rotation(0, count)
    places = torch.arange(count, device=cos.device)
    sees = places <= places[:, None]
    if decoder.config.window is not None:
        sees &= places > places[:, None] - decoder.config.window
    fast, found = hidden[interval[0]], []
    for layer in range(*interval):
        with torch.no_grad():
            _, keys, values = query_key_value(layer, hidden[layer], cos, sin, decoder)
        queries, _, _ = query_key_value(layer, fast, cos, sin, decoder, adapters)
        fast = finish_layer(layer, fast, queries, keys, values, sees, decoder, adapters)
        found.append(fast)
    return found
