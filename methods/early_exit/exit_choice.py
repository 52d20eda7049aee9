"""Which layer to draft at: DEL's running statistics of every exit and the objective they enter.

Numbers on the host only; `methods.early_exit.dynamic_exit` collects them. (DEL: specs, swift-del-layerskip,
section 6.)

Shapes: J candidate exits, G draft lengths 0 .. G - 1, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class ExitStatistics:
    """How often each exit's own token is the target's, and how sure the exit is when it is and when not.

    Exponential averages, decayed once per round (section 6.3). An exit's figures may come rounds later: until
    then its acceptance is what it would be if every token waited for were a match.

    Args:
        exits: How many exits (J).
        decay: Weight of the past (omega).
    """

    def __init__(self, exits: int, decay: float) -> None:
        self._decay = decay
        self._sums: Floats = np.zeros((4, exits))
        self._matches: Floats = np.zeros(exits)  # at best, of the rounds waited for
        self.waiting = np.zeros(exits, dtype=np.intp)
        """Rounds that each exit's figures are waited for, shape [J]."""

    def wait(self, tokens: int) -> None:
        """A round of so many tokens is over; no exit's figures are known yet."""
        self._matches = self._decay * self._matches + tokens
        self.waiting += 1

    def settle(self, place: int, sums: Floats) -> None:
        """Take in what the rounds waited for have shown of one exit.

        Args:
            place: The exit's.
            sums: Matches, mismatches, sum of confidences over matches and over mismatches, of every round but
                the newest decayed to the newest, shape [4].
        """
        self._sums[:, place] = self._decay ** self.waiting[place] * self._sums[:, place] + sums
        self._matches[place] = self.waiting[place] = 0

    @property
    def acceptance(self) -> Floats:
        """Share of matches (alpha), at best, shape [J]; 0 for an exit that has shown nothing yet."""
        known, mismatches = self._decay**self.waiting * self._sums[:2]
        matches = known + self._matches
        return _ratio(matches, matches + mismatches)

    def threshold(self, place: int) -> float:
        """Mid-way between the mean confidence of matches and of mismatches (tau) of one exit.

        An exit without a mismatch, or without a match, has nothing to tell apart: 0, so it never stops early.
        """
        matches, mismatches, sure, unsure = self._sums[:, place]
        return float(sure / matches + unsure / mismatches) / 2 if matches > 0 and mismatches > 0 else 0.0


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


@dataclass(frozen=True, slots=True)
class Choice:
    """An exit and a draft length, with the tokens per unit of cost that they promise.

    Args:
        index: Place of the exit among the candidates.
        length: Draft length; 0 is plain decoding.
        value: Expected tokens per unit of cost.
    """

    index: int
    length: int
    value: float


def expected_tokens(acceptance: Floats, lengths: int) -> Floats:
    """Tokens of a round by exit and draft length, shape [J, G]: ``1 + a + .. + a^g``, independent errors."""
    powers = acceptance[:, None] ** np.arange(lengths)  # [J, G]; 0 ** 0 is 1
    return powers.cumsum(axis=1)


def layer_cost(exits: Floats, depth: int, lengths: int) -> Floats:
    """Layers loaded by exit and draft length, shape [J, G]: ``g E + L`` (section 6.3)."""
    return np.arange(lengths) * exits[:, None] + depth


def choose(acceptance: Floats, cost: Floats) -> Choice:
    """The exit and draft length with the most expected tokens per cost (TPL).

    Ties go to the smallest exit, then to the shortest draft.

    Args:
        acceptance: By exit, shape [J].
        cost: By exit and draft length, shape [J, G].
    """
    value = expected_tokens(acceptance, cost.shape[1]) / cost
    index, length = divmod(int(value.argmax()), cost.shape[1])
    return Choice(index, length, float(value[index, length]))
