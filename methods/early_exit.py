"""Drafting with the first layers of the target and resuming its verification there.

The rows that leave layer ``exit - 1`` while drafting are the target's own, so they are saved: verification
runs layers ``exit ..`` on them and never repeats the shallow ones, whose keys and values are already final.
The exit may change from one round to the next. (LayerSkip, arXiv 2404.16710, section 4.3; Kangaroo, arXiv
2404.18911, section 3.1.)

Shapes: K drafted tokens, d width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder


class PrefixExit:
    """One round's shallow rows.

    Args:
        decoder: The target.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._rows: list[Tensor] = []
        self._base = 0
        self._exit = 0

    def start(self, base: int, exit_layer: int) -> None:
        """Begin a round whose root stands at position `base`."""
        self._rows = []
        self._base = base
        self._exit = exit_layer

    def advance(self, token: Tensor) -> Tensor:
        """Run the next token [1] through the shallow layers; the row leaving them, shape [1, d]."""
        decoder = self._decoder
        place = decoder.placement.chain(self._base + len(self._rows), 1)
        row = decoder.run_layers(decoder.embed(token), place, 0, self._exit)
        self._rows.append(row)
        return row

    def verify(self) -> Tensor:
        """Target logits of all tokens advanced since `start`, shape [K + 1, V]."""
        decoder = self._decoder
        place = decoder.placement.chain(self._base, len(self._rows))
        return decoder.head(decoder.run_layers(torch.cat(self._rows), place, self._exit))


def check_exit(exit_layer: int, decoder: Decoder, method: str) -> None:
    """Refuse an exit that leaves nothing to draft with or nothing to verify with.

    Raises:
        UserError: If the exit lies outside ``1 .. L - 1``.
    """
    if not 1 <= exit_layer < decoder.depth:
        raise UserError(
            f"{method}: exit_layer must lie in 1..{decoder.depth - 1} for this model, got {exit_layer}",
            f"set method.exit_layer; for {decoder.depth} layers try {max(1, decoder.depth // 8)}",
        )
