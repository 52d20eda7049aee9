"""DEL's numbers: running statistics of every exit, and the exit and draft length that they make best.

Pure arithmetic on the host (DEL, arXiv 2504.05598); `methods.early_exit.dynamic_exit` runs the model and
feeds it.

Shapes: J candidate exits, G draft lengths 0 .. G - 1, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class ExitStatistics:
    """How often each exit's own token is the target's, and how confident the exit is in either case.

    Exponential averages, decayed once per round. The figures of a round may be supplied rounds later; until
    then the round is *pending* for that exit, and its tokens count as matches. So the acceptance of an exit
    with pending rounds is an upper bound.

    Args:
        exits: Number of exits (J).
        decay: Weight of the past (omega).
    """

    def __init__(self, exits: int, decay: float) -> None:
        self._decay = decay
        self._sums: Floats = np.zeros((4, exits))
        self._pending_tokens: Floats = np.zeros(exits)  # of the pending rounds, decayed to the newest
        self.pending = np.zeros(exits, dtype=np.intp)
        """Number of pending rounds of each exit, shape [J]."""

    def add_pending(self, tokens: int) -> None:
        """A round with this many tokens has ended; the figures of all exits are pending."""
        self._pending_tokens = self._decay * self._pending_tokens + tokens
        self.pending += 1

    def settle(self, index: int, sums: Floats) -> None:
        """Supply the figures of all pending rounds of one exit.

        Args:
            index: Of the exit.
            sums: Matches, mismatches, sum of confidences over matches and over mismatches, each summed over
                the pending rounds with their decay to the newest one, shape [4].
        """
        self._sums[:, index] = self._decay ** self.pending[index] * self._sums[:, index] + sums
        self._pending_tokens[index] = self.pending[index] = 0

    @property
    def acceptance(self) -> Floats:
        """Share of matches (alpha), an upper bound if rounds are pending, shape [J]; 0 without counts."""
        known, mismatches = self._decay**self.pending * self._sums[:2]
        matches = known + self._pending_tokens
        return _ratio(matches, matches + mismatches)

    def threshold(self, index: int) -> float:
        """Confidence halfway between an exit's mean over its matches and its mean over its mismatches (tau).

        0, which never stops a draft, for an exit that has no match or no mismatch so far.
        """
        matches, mismatches, sure, unsure = self._sums[:, index]
        return float(sure / matches + unsure / mismatches) / 2 if matches > 0 and mismatches > 0 else 0.0


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


@dataclass(frozen=True, slots=True)
class Choice:
    """An exit, a draft length and the tokens per unit of cost expected of them.

    Args:
        index: Of the exit among the candidates.
        length: Draft length; 0 is plain decoding.
        value: Expected tokens per unit of cost.
    """

    index: int
    length: int
    value: float


def expected_tokens(acceptance: Floats, lengths: int) -> Floats:
    """Expected tokens of a round by exit and draft length g, if errors are independent, shape [J, G].

    ``1 + a + a^2 + .. + a^g`` for an acceptance a.
    """
    powers = acceptance[:, None] ** np.arange(lengths)  # [J, G]; 0 ** 0 is 1
    return powers.cumsum(axis=1)


def layer_cost(exits: Floats, depth: int, lengths: int) -> Floats:
    """Layers loaded in a round by exit E and draft length g, shape [J, G]: ``g E + L``."""
    return np.arange(lengths) * exits[:, None] + depth


def choose(acceptance: Floats, cost: Floats) -> Choice:
    """The exit and draft length with the most expected tokens per unit of cost (TPL).

    Ties go to the smallest exit, then to the shortest draft.

    Args:
        acceptance: By exit, shape [J].
        cost: By exit and draft length, shape [J, G].
    """
    value = expected_tokens(acceptance, cost.shape[1]) / cost
    index, length = divmod(int(value.argmax()), cost.shape[1])
    return Choice(index, length, float(value[index, length]))
