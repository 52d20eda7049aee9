"""Which recording serves a pass, and the fixed memory its inputs are copied to.

A recording has a fixed number of rows and reads a fixed number of cache slots. Numbers of rows and slots are
rounded up to a few sizes: surplus rows write to the cache's trash and are cut off the output, surplus slots
are masked.

Shapes: R rows of a pass, B >= R rows of its bucket, G query heads per key/value head, C columns (slots read),
d width.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.rows import Rows

Part = Literal["step", "layers", "attention", "mlp"]
"""Ids to logits through all layers; rows through a range of layers; rows through one sub-layer."""

ROW_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
"""Exact where chains are, then steps of a quarter at most; passes of more rows are not recorded."""
MOST_ROWS = ROW_SIZES[-1]
_COLUMN_SIZES = tuple(size << shift for shift in range(20) for size in (128, 192))  # a third apart at most


class Bucket(NamedTuple):
    """What one recording serves.

    Args:
        part: What is run.
        start: First layer.
        stop: One past the last layer.
        rows: Rows (B).
        columns: Cache slots that attention reads (C); 0 for an MLP alone.
        is_chain: Positions and mask follow from the first slot; otherwise they are inputs.
        taps: Layers whose entering rows are outputs too, ascending; none is `start`.
    """

    part: Part
    start: int
    stop: int
    rows: int
    columns: int
    is_chain: bool
    taps: tuple[int, ...] = ()


def row_size(count: int) -> int:
    """Rows of the bucket that takes `count` of them."""
    return ROW_SIZES[bisect_left(ROW_SIZES, count)]


def column_size(end: int, capacity: int) -> int:
    """Slots of the bucket that reads `end` of them."""
    return min(_COLUMN_SIZES[bisect_left(_COLUMN_SIZES, end)], capacity)


def column_sizes(longest: int, capacity: int) -> list[int]:
    """All that sequences of up to `longest` tokens come by."""
    last = column_size(longest, capacity)
    return sorted({min(size, last) for size in _COLUMN_SIZES})


class Inputs:
    """The inputs of every recording for one number of rows; copied to before a replay, never reallocated.

    Args:
        decoder: Whose passes they are.
        rows: Rows (B).
        trash: Slot of padding rows.
    """

    def __init__(self, decoder: Decoder, rows: int, trash: int) -> None:
        self._placement = decoder.placement
        self._groups = decoder.config.heads // decoder.config.kv_heads
        self._trash = trash
        self._masks: dict[int, Tensor] = {}
        self._written: int | None = None  # the host's copy of _writes
        cos, sin = decoder.placement.rotation(0, 1)
        with torch.inference_mode(False):  # they outlive the mode that the first pass may run in
            self._order = torch.arange(rows, device=decoder.device)
            self._base, self._writes = self._order.new_zeros(1), self._order.new_zeros(1)
            self._slots = torch.full_like(self._order, trash)
            self._cos, self._sin = cos.repeat(rows, 1, 1), sin.repeat(rows, 1, 1)
            self.ids = torch.zeros_like(self._order)  # [B]
            self.hidden = decoder.embedding.new_zeros(rows, decoder.config.width)  # [B, d]

    def place_chain(self, base: int, writes: int) -> None:
        """Take the slots of a chain; on the device, the rest follows from them."""
        self._base.fill_(base)
        if writes != self._written:
            self._writes.fill_(writes)
            self._written = writes

    def place(self, rows: Rows, count: int, columns: int) -> None:
        """Take the slots, positions and mask of R rows of any kind."""
        torch.add(self._order, rows.base, out=self._slots)
        self._slots[rows.writes :].fill_(self._trash)
        self._cos[:count].copy_(rows.cos)
        self._sin[:count].copy_(rows.sin)
        end = rows.base + rows.writes
        mask = self._mask(columns).view(self._groups, -1, columns)  # [G, B, C]
        mask.fill_(float("-inf"))
        if rows.mask is None:
            mask[:, :, :end].fill_(0.0)
        else:
            mask[:, :count, :end].copy_(rows.mask.view(self._groups, count, end))
            mask[:, count:, :1].fill_(0.0)  # a row that sees nothing is not a number

    def placed(self, columns: int, is_chain: bool) -> tuple[Rows, Tensor]:
        """The same for the recorded pass, from what lies on the device alone: `Rows`, and slots [B]."""
        if not is_chain:
            return Rows(0, self._order.numel(), self._cos, self._sin, self._mask(columns)), self._slots
        positions = self._base + self._order
        slots = positions.masked_fill(self._order >= self._writes, self._trash)
        return self._placement.chain_at(positions, columns), slots

    def _mask(self, columns: int) -> Tensor:
        """Additive mask, shape [G B, C]; made on first use."""
        if columns not in self._masks:
            with torch.inference_mode(False):
                shape = self._groups * self._order.numel(), columns
                self._masks[columns] = self._cos.new_zeros(shape)
        return self._masks[columns]
