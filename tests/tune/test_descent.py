"""The search of `bench.tune`: which settings are tried, and when a change replaces what stands."""

from __future__ import annotations

from collections.abc import Sequence

from bench.tune.descent import LEAST_GAIN, Changes, descend

STEPS: Sequence[Sequence[Changes]] = [
    [{"draft_length": 2}, {"draft_length": 4}],
    [{"threshold": 0.4}, {"threshold": 0.8}],
]


def searched(speed: dict[tuple[tuple[str, float], ...], float]) -> tuple[Changes, list[list[Changes]]]:
    """What `descend` finds where the speeds are these (1 elsewhere), and what it asked for."""
    asked: list[list[Changes]] = []

    def compare(candidates: list[Changes]) -> list[float]:
        asked.append(candidates)
        return [speed.get(tuple(candidate.items()), 1.0) for candidate in candidates]

    return descend(STEPS, compare), asked


def test_every_step_is_tried_around_the_best_so_far() -> None:
    fast = {(("draft_length", 4),): 1.2, (("draft_length", 4), ("threshold", 0.8)): 1.3}
    best, asked = searched(fast)
    assert best == {"draft_length": 4, "threshold": 0.8}
    assert asked == [
        [{}, {"draft_length": 2}, {"draft_length": 4}],
        [
            {"draft_length": 4},
            {"draft_length": 4, "threshold": 0.4},
            {"draft_length": 4, "threshold": 0.8},
        ],
    ]


def test_a_gain_that_may_be_noise_changes_nothing() -> None:
    assert searched({(("draft_length", 2),): LEAST_GAIN})[0] == {}


def test_settings_that_stand_already_are_not_measured_twice() -> None:
    asked: list[list[Changes]] = []

    def compare(candidates: list[Changes]) -> list[float]:
        asked.append(candidates)
        return [1.0] * len(candidates)

    assert descend([[{}], [{"width": 2}, {"width": 2}]], compare) == {}
    assert asked == [[{}, {"width": 2}]]
