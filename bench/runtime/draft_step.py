"""One step of an early-exit draft: from the row of a token to the next token and its row.

The step runs the row through a drafter's layers, if it has any, and through the head; takes the most likely
token; and runs that through the first layers of the target. On the graph tier all of it is one recording, so
that a drafted token costs the host one launch and not twenty.

Shapes: d width, N tokens that may be drafted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from bench.runtime.decoder import Decoder


class Head(Protocol):
    """What chooses tokens; `bench.runtime.sampling.DraftHead` does."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits [R, N] of rows [R, d]."""

    def tokens(self, places: Tensor) -> Tensor:
        """Token ids of columns of the logits."""


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
    """Makes greedy steps of an early-exit draft; made by `Decoder.stepper`.

    Args:
        target: The target.
        exit_layer: Its layers that draft.
        head: Chooses the token.
        drafter: Layers between the exit and the head, at the target's own positions; None if there are none.
    """

    def __init__(self, target: Decoder, exit_layer: int, head: Head, drafter: Decoder | None = None) -> None:
        self._target, self._exit, self._head, self._drafter = target, exit_layer, head, drafter

    def step(self, row: Tensor, position: int, *, has_confidence: bool) -> DraftStep:
        """The step after the token at `position`, whose row [1, d] has left the first layers."""
        target, drafter = self._target, self._drafter
        if drafter is not None:
            row = drafter.run_layers(row, drafter.placement.chain(position, 1))
        token, *confidence = self._choose(row, has_confidence)
        place = target.placement.chain(position + 1, 1)
        row = target.run_layers(target.embed(token), place, 0, self._exit)
        return DraftStep(token, row, confidence[0] if confidence else None)

    def _choose(self, row: Tensor, has_confidence: bool) -> tuple[Tensor, ...]:
        """The most likely token and, if it is wanted, its probability."""
        logits = self._head(row)
        token = self._head.tokens(logits.argmax(dim=-1))
        return (token, logits.float().softmax(dim=-1).amax()) if has_confidence else (token,)
