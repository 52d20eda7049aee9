"""Which layer to draft at: DEL's running statistics of every exit and the objective they enter.

Numbers on the host only; `methods.dynamic_exit` collects them. (DEL: specs, swift-del-layerskip, section 6.)

Shapes: J candidate exits, G draft lengths 0 .. G - 1, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class ExitStatistics:
    """How often each exit's own token is the target's, and how sure the exit is when it is and when not.

    Exponential averages, decayed once per update (section 6.3).

    Args:
        exits: How many exits (J).
        decay: Weight of the past (omega).
    """

    def __init__(self, exits: int, decay: float) -> None:
        self._decay = decay
        self._sums: Floats = np.zeros((4, exits))

    def update(self, sums: Floats) -> None:
        """Add what a round showed.

        Args:
            sums: Matches, mismatches, sum of confidences over matches and over mismatches, shape [4, J].
        """
        self._sums = self._decay * self._sums + sums

    @property
    def acceptance(self) -> Floats:
        """Share of matches (alpha), shape [J]; 0 for an exit that has shown nothing yet."""
        matches, mismatches = self._sums[:2]
        return _ratio(matches, matches + mismatches)

    @property
    def thresholds(self) -> Floats:
        """Mid-way between the mean confidence of matches and of mismatches (tau), shape [J].

        An exit without a mismatch, or without a match, has nothing to tell apart: 0, so it never stops early.
        """
        matches, mismatches, sure, unsure = self._sums
        middle: Floats = (_ratio(sure, matches) + _ratio(unsure, mismatches)) / 2
        return np.where((matches > 0) & (mismatches > 0), middle, 0.0)


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
