"""Which recording serves a pass, and the fixed memory that its inputs are copied to.

A recording has a fixed number of rows and reads a fixed number of cache slots. A pass uses the recording of
the next larger size, its bucket: surplus rows write to the cache's trash slot and are cut off the output,
surplus slots are masked.

Shapes: R rows of a pass, B >= R rows of its bucket, G query heads per key/value head, C columns (slots read),
d width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bench.runtime.decoder import NO_SKIP, Skip
from bench.runtime.delta import LowRankDelta
from bench.runtime.rows import Placement, Rows
from bench.runtime.tiers.graph.lengths import LengthDecoder, may_have_padding

Part = Literal["step", "layers", "attention", "mlp"]
"""What a recording runs: ids to logits through all layers; rows through a range of layers; rows through the
attention or the MLP of one layer."""


class Span(NamedTuple):
    """A range of layers as a pass runs it, at any number of rows.

    Args:
        start: First layer.
        stop: One past the last layer.
        skip: Sub-layers that are left out.
        delta: Changes to the projections, whose matrices never move; None if there are none.
    """

    start: int
    stop: int
    skip: Skip = NO_SKIP
    delta: LowRankDelta | None = None


class Bucket(NamedTuple):
    """Names a recording by what it runs and at which size.

    Args:
        part: What it runs.
        span: Through which layers.
        rows: Rows (B).
        columns: Cache slots that attention reads (C); 0 for an MLP alone.
        is_chain: Positions and mask follow from the first slot; otherwise they are inputs.
        taps: Layers whose entering rows are outputs too, ascending; the first layer is never among them.
    """

    part: Part
    span: Span
    rows: int
    columns: int
    is_chain: bool
    taps: tuple[int, ...] = ()


def sublayer_bucket(part: Part, layer: int, rows: int, columns: int) -> Bucket:
    """The bucket of one sub-layer. Positions and mask are inputs, computed once for all layers of a pass."""
    return Bucket(part, Span(layer, layer + 1), rows, columns, is_chain=False)


class _Places:
    """Positions and masks of rows, for the layers of one kind; in fixed memory.

    Args:
        placement: Of these layers.
        rows: Rows (B).
        groups: Query heads per key/value head (G).
    """

    def __init__(self, placement: Placement, rows: int, groups: int) -> None:
        self._rows, self._groups = rows, groups
        self._masks: dict[int, Tensor] = {}
        cos, sin = placement.rotation(0, 1)
        with torch.inference_mode(False):  # they must outlive the mode in which the first pass may run
            self._cos, self._sin = cos.repeat(rows, 1, 1), sin.repeat(rows, 1, 1)

    def set(self, rows: Rows, count: int, columns: int) -> None:
        """Copy positions and mask of `count` rows, for a recording of C columns."""
        self._cos[:count].copy_(rows.cos)
        self._sin[:count].copy_(rows.sin)
        end = rows.base + rows.writes
        mask = self._mask(columns).view(self._groups, -1, columns)  # [G, B, C]
        mask.fill_(float("-inf"))
        if rows.mask is None:
            mask[:, :, :end].fill_(0.0)
        else:
            mask[:, :count, :end].copy_(rows.mask.view(self._groups, count, end))
            mask[:, count:, :1].fill_(0.0)  # a padding row that saw no slot would become NaN

    def rows(self, columns: int) -> Rows:
        """What was set last, for the pass to be recorded."""
        return Rows(0, self._rows, self._cos, self._sin, self._mask(columns))

    def _mask(self, columns: int) -> Tensor:
        """Additive mask, shape [G B, C]; allocated on first use."""
        if columns not in self._masks:
            with torch.inference_mode(False):
                self._masks[columns] = self._cos.new_zeros(self._groups * self._rows, columns)
        return self._masks[columns]


class Inputs:
    """The inputs of every recording with one number of rows; copied to before a replay, never reallocated.

    Args:
        decoder: Whose passes they are for.
        rows: Rows (B).
        trash: Slot that padding rows write to.

    Attributes:
        ids: Token ids of a step, shape [B].
        hidden: Rows entering a layer, shape [B, d].
    """

    def __init__(self, decoder: LengthDecoder, rows: int, trash: int) -> None:
        groups = decoder.config.heads // decoder.config.kv_heads
        kinds = (False,) if decoder.config.alternate is None else (False, True)
        self._places = [_Places(decoder.placement.of(kind), rows, groups) for kind in kinds]
        self._trash = trash
        self._written: int | None = None  # the host's copy of _writes
        self._logits_shape = rows, decoder.config.vocab
        self._logits: Tensor | None = None
        with torch.inference_mode(False):  # they must outlive the mode in which the first pass may run
            self._order = torch.arange(rows, device=decoder.device)
            self._base, self._writes = self._order.new_zeros(1), self._order.new_zeros(1)
            self._slots = torch.full_like(self._order, trash)
            self.ids = torch.zeros_like(self._order)
            self.hidden = decoder.embedding.new_zeros(rows, decoder.config.width)

    def logits(self) -> Tensor:
        """Where every step with this number of rows leaves its logits [B, V]; allocated on first use.

        One buffer for all: a buffer per recording would be one per number of columns.
        """
        if self._logits is None:
            with torch.inference_mode(False):
                self._logits = self.hidden.new_zeros(self._logits_shape)
        return self._logits

    def set_chain(self, base: int, writes: int) -> None:
        """Set first slot and number of rows of a chain; the recording computes the rest on the device."""
        self._base.fill_(base)
        if writes != self._written:
            self._writes.fill_(writes)
            self._written = writes

    def set_rows(self, rows: Rows, count: int, columns: int) -> None:
        """Set slots, positions and mask of `count` (R) rows of any kind, for a recording of C columns."""
        torch.add(self._order, rows.base, out=self._slots)
        self._slots[rows.writes :].fill_(self._trash)
        for places, is_alternate in zip(self._places, (False, True), strict=False):
            places.set(rows.of(is_alternate), count, columns)

    def placed(self, decoder: LengthDecoder, columns: int, is_chain: bool) -> tuple[Rows, Tensor]:
        """What `set_chain` or `set_rows` set, for the pass to be recorded: its `Rows`, and slots [B].

        Only numbers on the device enter the result, so that a replay follows what was set last.

        Args:
            decoder: Says how chains attend.
            columns: Cache slots that attention reads (C).
            is_chain: Whether `set_chain` set them.
        """
        if not is_chain:
            main, *others = (places.rows(columns) for places in self._places)
            return replace(main, alternate=others[0] if others else None), self._slots
        positions = self._base + self._order
        slots = positions.masked_fill(self._order >= self._writes, self._trash)
        writes = self._writes if may_have_padding(positions.numel()) else None
        return decoder.chain_rows(positions, columns, writes), slots
