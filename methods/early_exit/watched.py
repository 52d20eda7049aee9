"""Rows at several exits, recorded while a prompt or a round passes through the layers.

Shapes: J exits, K drafted tokens, d width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from methods.early_exit.prefix import PrefixExit


class WatchedPrefix:
    """A `PrefixExit` that also records the rows at other exits.

    Args:
        decoder: The target.
        exits: Exits to record, ascending: rows that leave the first E layers, for every E given.
        base: Position of the round's root.
        exit_layer: Layers that draft in this round.
    """

    def __init__(self, decoder: Decoder, exits: Iterable[int], base: int, exit_layer: int) -> None:
        self._prefix = PrefixExit(decoder, base, exit_layer)
        self._exits, self._exit = tuple(exits), exit_layer
        self._placeholder = decoder.embedding  # `Decoder.run_layers` replaces it
        self._shallow: list[dict[int, Tensor]] = []  # of each token: rows up to the exit that drafts
        self._deep = dict.fromkeys((layer for layer in self._exits if layer > exit_layer), self._placeholder)

    def advance(self, token: Tensor) -> Tensor:
        taps = dict.fromkeys((layer for layer in self._exits if layer <= self._exit), self._placeholder)
        self._shallow.append(taps)
        return self._prefix.advance(token, taps)

    def verify(self) -> Tensor:
        return self._prefix.verify(self._deep)

    def rows(self) -> Tensor:
        """Rows recorded at all exits in drafting and verification, shape [J, K + 1, d]; no layer reruns."""
        shallow = [taps[layer] for layer in self._exits if layer <= self._exit for taps in self._shallow]
        rows = torch.cat(shallow + [self._deep[layer] for layer in self._exits if layer > self._exit])
        return rows.view(len(self._exits), len(self._shallow), -1)


class LastRows(dict[int, Tensor]):
    """Taps for `Decoder.run_layers` that keep the last rows only, which frees those of a long prompt.

    Args:
        count: Rows to keep.
        layers: Layers to tap.
        like: Placeholder until rows arrive.
    """

    def __init__(self, count: int, layers: tuple[int, ...], like: Tensor) -> None:
        super().__init__(dict.fromkeys(layers, like))
        self._count = count

    def __setitem__(self, layer: int, rows: Tensor) -> None:
        super().__setitem__(layer, rows[-self._count :].clone())
