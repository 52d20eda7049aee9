"""What a run's rounds say of its method, as settings of ``method=synthetic``: rates, stops and exit layer.

With them the cost of the method's work is measured on another model or device, at the acceptance that it had
in the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.records.model import Sample
from bench.records.rounds import Rounds

LEAST = 10
"""Rounds that must have drafted a position for it to have rates."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The settings; K positions.

    Args:
        acceptance: Probability that position 1 .. K is accepted if those before it are.
        stops: Probability that a draft stops after 0 .. K - 1 positions if it has come that far.
        nodes: Rows verified in a whole round, the root included; None for a chain.
        exit_layer: Where drafts leave the model; None where they do not, or at several layers.
    """

    acceptance: tuple[float, ...]
    stops: tuple[float, ...]
    nodes: int | None
    exit_layer: int | None

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Rates:
        """From the samples of one method.

        Raises:
            UserError: If no position was drafted often enough.
        """
        rounds = Rounds.joined(sample.rounds for sample in samples)
        whole = np.array([stop != "budget" for stop in rounds.stop], dtype=bool)
        depth, accepted, drafted = (
            np.asarray(column)[whole] for column in (rounds.depth, rounds.accepted, rounds.drafted)
        )
        reached = [int((depth >= position).sum()) for position in range(1, int(depth.max(initial=0)) + 1)]
        most = sum(count >= LEAST for count in reached)
        if not most:
            raise UserError(
                "the run holds too few rounds that drafted anything",
                f"name a method with at least {LEAST} drafted rounds, as RUN:METHOD",
            )
        layers = {step.exit_layer for step in rounds if step.exit_layer is not None}
        is_tree = bool((drafted > depth).any())
        return cls(
            tuple(_accepted(depth, accepted, position) for position in range(1, most + 1)),
            tuple(_stopped(depth, position) for position in range(most)),
            int(drafted.max()) + 1 if is_tree else None,
            layers.pop() if len(layers) == 1 else None,
        )

    def settings(self) -> str:
        """As they are written after ``python -m bench method=synthetic``."""
        parts = [f"'method.acceptance={_listed(self.acceptance)}'"]
        if any(self.stops):
            parts.append(f"'method.stops={_listed(self.stops)}'")
        if self.nodes is not None:
            parts.append(f"method.schedule.nodes={self.nodes}")
        if self.exit_layer is not None:
            parts.append(f"method.schedule.exit_at={self.exit_layer}")
        return " ".join(parts)


def _accepted(depth: NDArray[np.int64], accepted: NDArray[np.int64], position: int) -> float:
    tried = (depth >= position) & (accepted >= position - 1)
    return float((accepted[tried] >= position).mean()) if tried.any() else 0.0


def _stopped(depth: NDArray[np.int64], position: int) -> float:
    come = depth >= position
    return float((depth[come] == position).mean())


def _listed(rates: Sequence[float]) -> str:
    return "[" + ",".join(f"{rate:.4g}" for rate in rates) + "]"
