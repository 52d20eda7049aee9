"""Drafting with the first layers of the target, and verifying with the rest.

The first E layers are a cheap model of their own. The rows that leave layer E - 1 while drafting are exactly
the rows that the target would compute there, so they are saved: verification runs the other layers on them
and never repeats the first E, whose keys and values are final already. E may change from one round to the
next. (LayerSkip, arXiv 2404.16710, section 4.3; Kangaroo, arXiv 2404.18911, section 3.1.)

A round makes a `PrefixExit`, calls `advance` for the root and for every drafted token, then `verify`.

Shapes: E layers that draft, K drafted tokens, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor

from bench.runtime.decoder import Decoder

Taps = MutableMapping[int, Tensor]
"""Rows to record on the way, see `Decoder.run_layers`."""


class PrefixExit:
    """The saved rows of one round.

    Args:
        decoder: The target.
        base: Position of the round's root.
        exit_layer: Layers that draft in this round (E).
    """

    def __init__(self, decoder: Decoder, base: int, exit_layer: int) -> None:
        self._decoder, self._base, self._exit = decoder, base, exit_layer
        self._rows: list[Tensor] = []

    @property
    def position(self) -> int:
        """Position of the next token."""
        return self._base + len(self._rows)

    def keep(self, row: Tensor) -> None:
        """Save a row [1, d] that the caller ran through the first layers itself."""
        self._rows.append(row)

    def advance(self, token: Tensor, taps: Taps | None = None) -> Tensor:
        """Run the next token [1] through the first layers; returns the row that leaves them, shape [1, d]."""
        decoder = self._decoder
        place = decoder.placement.chain(self.position, 1)
        row = decoder.run_layers(decoder.embed(token), place, 0, self._exit, taps=taps)
        self.keep(row)
        return row

    def verify(self, taps: Taps | None = None) -> Tensor:
        """Target logits after every token of the round, shape [K + 1, V]."""
        decoder = self._decoder
        place = decoder.placement.chain(self._base, len(self._rows))
        return decoder.head(decoder.run_layers(torch.cat(self._rows), place, self._exit, taps=taps))
