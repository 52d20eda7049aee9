"""Draft steps that replay one recording each: a drafter's layers, the head, and the target's first layers.

Shapes: d width.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.runtime.draft_step import DraftStep, DraftStepper, Head
from bench.runtime.tiers.graph.recorder import Recording
from bench.runtime.tiers.graph.sizes import column_size, column_sizes

if TYPE_CHECKING:
    from bench.runtime.tiers.graph.decoder import GraphDecoder


class RecordedStepper(DraftStepper):
    """A `DraftStepper` on the graph tier: a step replays one recording.

    Args: See `DraftStepper`; both decoders are on the graph tier.
    """

    _target: GraphDecoder
    _drafter: GraphDecoder | None

    def __init__(
        self, target: GraphDecoder, exit_layer: int, head: Head, drafter: GraphDecoder | None = None
    ) -> None:
        super().__init__(target, exit_layer, head, drafter)
        self._recordings: dict[tuple[int, bool], Recording] = {}  # by columns and whether with confidence
        with torch.inference_mode(False):  # they must outlive the mode in which the first step may run
            self._row = target.embedding.new_zeros(1, target.config.width)
            self._position = torch.zeros(1, dtype=torch.int64, device=target.device)
        target.prepare_along(self)

    def prepare(self, longest: int) -> None:
        """Record the kinds of steps made so far for sequences of up to `longest` tokens."""
        self._position.fill_(0)  # recording writes to the slots of this position
        for columns in column_sizes(longest, self._target.capacity):
            for has_confidence in {kind for _, kind in self._recordings}:
                self._recording(columns, has_confidence)
        for decoder in (self._target, self._drafter):
            if decoder is not None:
                decoder.slots.mark_written()

    def step(self, row: Tensor, position: int, *, has_confidence: bool) -> DraftStep:
        """See `DraftStepper.step`."""
        target, drafter = self._target, self._drafter
        target.placement.check(position + 2, position + 1)
        if drafter is not None:
            drafter.slots.advance(range(drafter.depth), position, 1)
        target.slots.advance(range(self._exit), position + 1, 1)
        self._row.copy_(row)
        self._position.fill_(position)
        recording = self._recording(column_size(position + 2, target.capacity), has_confidence)
        recording.replay()
        target.tally.replayed += 1
        token, row, *confidence = recording.outputs
        return DraftStep(token.clone(), row.clone(), confidence[0] if confidence else None)

    def _recording(self, columns: int, has_confidence: bool) -> Recording:
        key = columns, has_confidence
        if key not in self._recordings:
            self._recordings[key] = self._target.record(partial(self._work, columns, has_confidence))
        return self._recordings[key]

    def _work(self, columns: int, has_confidence: bool) -> tuple[Tensor, ...]:
        """The work to record, on fixed inputs; returns token, row and, if it is wanted, confidence."""
        target, drafter, row = self._target, self._drafter, self._row
        if drafter is not None:
            row = drafter.recorded_chain(row, range(drafter.depth), self._position, columns)
        token, *confidence = self._choose(row, has_confidence)
        first_layers = range(self._exit)
        row = target.recorded_chain(target.embed(token), first_layers, self._position + 1, columns)
        return token, row, *confidence
