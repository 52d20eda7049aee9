"""Drafting with the first layers of the target and resuming its verification there.

The rows that leave layer ``exit - 1`` while drafting are the target's own, so they are saved: verification
runs layers ``exit ..`` on them and never repeats the shallow ones, whose keys and values are already final.
The exit may change from one round to the next. (LayerSkip, arXiv 2404.16710, section 4.3; Kangaroo, arXiv
2404.18911, section 3.1.)

Shapes: K drafted tokens, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
        self._watched: tuple[int, ...] = ()

    def start(self, base: int, exit_layer: int, watched: Iterable[int] = ()) -> None:
        """Begin a round whose root stands at position `base`.

        Args:
            base: Position of the root.
            exit_layer: Layers that draft (E).
            watched: Exits whose rows `seen` shall hold behind verification, ascending.
        """
        self._rows = []
        self._base = base
        self._exit = exit_layer
        self._watched = tuple(watched)
        self._shallow: list[dict[int, Tensor]] = []

    @property
    def position(self) -> int:
        """Where the next token stands."""
        return self._base + len(self._rows)

    def keep(self, row: Tensor) -> None:
        """Take a row [1, d] that the caller ran through the shallow layers itself."""
        self._rows.append(row)

    def advance(self, token: Tensor) -> Tensor:
        """Run the next token [1] through the shallow layers; the row leaving them, shape [1, d]."""
        decoder = self._decoder
        place = decoder.placement.chain(self.position, 1)
        taps = self._taps(lambda layer: layer <= self._exit)
        row = decoder.run_layers(decoder.embed(token), place, 0, self._exit, taps=taps)
        self.keep(row)
        self._shallow.append(taps)
        return row

    def verify(self) -> Tensor:
        """Target logits of all tokens advanced since `start`, shape [K + 1, V]."""
        decoder = self._decoder
        place = decoder.placement.chain(self._base, len(self._rows))
        self._deep = self._taps(lambda layer: layer > self._exit)
        return decoder.head(decoder.run_layers(torch.cat(self._rows), place, self._exit, taps=self._deep))

    def seen(self) -> Tensor:
        """Rows leaving the watched exits, from drafting and verification alike, shape [J, K + 1, d].

        No layer runs again for them.
        """
        shallow = [taps[layer] for layer in self._watched if layer <= self._exit for taps in self._shallow]
        rows = torch.cat(shallow + [self._deep[layer] for layer in self._watched if layer > self._exit])
        return rows.view(len(self._watched), len(self._rows), -1)

    def _taps(self, is_wanted: Callable[[int], bool]) -> dict[int, Tensor]:
        """Places for the rows of some watched exits."""
        return {layer: self._decoder.embedding for layer in self._watched if is_wanted(layer)}


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
