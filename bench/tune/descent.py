"""Which settings to try next: one step of a grid after the other, each around the best so far.

A step is a list of changes that belong together, such as all draft lengths. Its candidates are the best
settings so far and those settings with each change; the fastest is the best for the next step. So a grid of
three steps of four changes needs 15 arms instead of 64, at the risk of missing a best pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Changes = Mapping[str, Any]
"""Settings of a method that differ from its yaml file."""
Step = Sequence[Changes]
Compare = Callable[[list[Changes]], Sequence[float]]
"""How many times as fast as plain decoding each of these settings is."""

LEAST_GAIN = 1.01
"""A change must be faster by this factor to replace what stands: less is noise."""


def descend(steps: Sequence[Step], compare: Compare) -> Changes:
    """The fastest settings that one pass over the steps finds; no changes where nothing is faster.

    Args:
        steps: Of the grid, in the order to take them.
        compare: Measures candidates beside each other; the first is what stands.
    """
    best: Changes = {}
    for step in steps:
        candidates = list(_candidates(best, step))
        if len(candidates) > 1:
            best = _fastest(candidates, compare(candidates))
    return best


def _candidates(best: Changes, step: Step) -> Iterator[Changes]:
    """The best so far and, with each change of the step, what differs from all before it."""
    seen: list[Changes] = []
    for changes in ({}, *step):
        candidate = {**best, **changes}
        if candidate not in seen:
            seen.append(candidate)
            yield candidate


def _fastest(candidates: Sequence[Changes], speedups: Sequence[float]) -> Changes:
    fastest = max(range(len(candidates)), key=lambda place: speedups[place])
    return candidates[fastest if speedups[fastest] > LEAST_GAIN * speedups[0] else 0]
