"""One step of an early-exit draft: from the row of a token to the next token and its row.

The step runs the row through a drafter's layers, if it has any, and through the head; takes the most likely
token; and runs that through the first layers of the target. On the graph tier all of it is one recording, so
that a drafted token costs the host one launch and not twenty.

Shapes: d width, N tokens that may be drafted.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftHead
from bench.runtime.tiers.graph.buckets import column_size, column_sizes
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.runtime.tiers.graph.recorder import Recording


class DraftStep(NamedTuple):
    """What a step gives.

    Args:
        token: The most likely token, shape [1].
        row: Its row after the first layers of the target, shape [1, d].
        confidence: Its probability at temperature 1, a scalar that the next step may overwrite; None unless
            it was wanted.
    """

    token: Tensor
    row: Tensor
    confidence: Tensor | None

    def is_unsure(self, threshold: float) -> bool:
        """Whether the token's probability is below `threshold`; waits for the device."""
        return self.confidence is not None and bool(self.confidence < threshold)


class DraftStepper:
    """Makes greedy steps of an early-exit draft.

    Args:
        target: The target.
        exit_layer: Its layers that draft.
        head: Chooses the token.
        drafter: Layers between the exit and the head, at the target's own positions; None if there are none.
    """

    def __init__(
        self, target: Decoder, exit_layer: int, head: DraftHead, drafter: Decoder | None = None
    ) -> None:
        self._target, self._exit, self._head, self._drafter = target, exit_layer, head, drafter

    def step(self, row: Tensor, position: int, *, has_confidence: bool) -> DraftStep:
        """The step after the token at `position`, whose row [1, d] has left the first layers."""
        target, drafter = self._target, self._drafter
        if drafter is not None:
            row = drafter.run_layers(row, drafter.placement.chain(position, 1))
        token, *confidence = self._choose(row, has_confidence)
        place = target.placement.chain(position + 1, 1)
        row = target.run_layers(target.embed(token), place, 0, self._exit)
        return DraftStep(token, row, *confidence or [None])

    def _choose(self, row: Tensor, has_confidence: bool) -> tuple[Tensor, ...]:
        """The most likely token and, if it is wanted, its probability."""
        logits = self._head(row)
        token = self._head.tokens(logits.argmax(dim=-1))
        return (token, logits.float().softmax(dim=-1).amax()) if has_confidence else (token,)


class RecordedStepper(DraftStepper):
    """A `DraftStepper` on the graph tier: a step replays one recording.

    Args: See `DraftStepper`; both decoders are on the graph tier.
    """

    _target: GraphDecoder
    _drafter: GraphDecoder | None

    def __init__(
        self, target: GraphDecoder, exit_layer: int, head: DraftHead, drafter: GraphDecoder | None = None
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
        return DraftStep(token.clone(), row.clone(), *confidence or [None])

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


def draft_stepper(
    target: Decoder, exit_layer: int, head: DraftHead, drafter: Decoder | None = None
) -> DraftStepper:
    """The stepper of the target's tier; see `DraftStepper` for the arguments."""
    if isinstance(target, GraphDecoder):
        if drafter is not None and not isinstance(drafter, GraphDecoder):
            raise ValueError(f"the drafter must be on the target's tier, graph, and is on {drafter.tier}")
        return RecordedStepper(target, exit_layer, head, drafter)
    return DraftStepper(target, exit_layer, head, drafter)
