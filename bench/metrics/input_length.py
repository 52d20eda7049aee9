"""Speedup and acceptance by the length of the prompt: does a method gain less after a long prompt, or more?

The unit is a turn, since later turns of a conversation have longer prompts. Turns of one question that fall
into the same range count as one question there, so an interval rests on questions, as everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from bench.metrics.counts import acceptance_length
from bench.metrics.run_figures import Speedup
from bench.metrics.speedups import defined, of_arm, speedup
from bench.metrics.summary import complete_prompts, finished_repeats
from bench.records.model import Arm, Sample

EDGES = tuple(2**power for power in range(7, 18))
"""Powers of two from 128 to 131072 tokens."""
LEAST_QUESTIONS = 10
"""A range with fewer questions is joined to the next shorter one."""
LEAST_RATIO = 4.0
"""How many times as long the prompts of the last range must be as those of the first, by their medians, for a
run's own table to show them."""


@dataclass(frozen=True, slots=True)
class LengthRange:
    """The turns whose prompts have from `low` to below `high` tokens.

    Args:
        low, high: Bounds in tokens; `high` is None for the last range.
        questions: Questions with such a turn.
        turns: Such turns.
        median_tokens: Median length of their prompts.
        speedup: Of the method over the baseline on these turns.
        acceptance_length: Tokens per target pass on them, the prefill being a pass of one token; None where
            the acceptance was given.
    """

    low: int
    high: int | None
    questions: int
    turns: int
    median_tokens: float
    speedup: Speedup
    acceptance_length: float | None

    @property
    def name(self) -> str:
        """The bounds in words: ``under 128``, ``128 to 255``, ``4096 and more``, ``all``."""
        if self.high is None:
            return f"{self.low} and more" if self.low else "all"
        return f"{self.low} to {self.high - 1}" if self.low else f"under {self.high}"


def by_input_length(
    samples: Sequence[Sample],
    edges: Sequence[int] | None = None,
    level: float = 0.95,
    *,
    is_cost_only: bool = False,
) -> tuple[LengthRange, ...]:
    """The ranges that hold a prompt, shortest first.

    Only prompts that are complete in every arm count, as in all speedups. The length of a turn's prompt is
    that which the baseline read: with answers that differ, a method's later prompts differ as well.

    Args:
        samples: Of a run of one method, or of one method's part of a run of several.
        edges: Where ranges begin, ascending; the first range begins at 0. None: see `filled_edges`.
        level: Confidence level of the intervals.
        is_cost_only: Whether the acceptance was given, and must not be shown.

    Raises:
        ValueError: If the edges do not ascend from above 0.
    """
    kept = finished_repeats([sample for sample in samples if sample.arm is not Arm.EAGER])
    compared, _ = complete_prompts(kept)
    lengths = prompt_lengths(compared)
    chosen = filled_edges(lengths) if edges is None else tuple(edges)
    if list(chosen) != sorted(set(chosen)) or min(chosen, default=1) < 1:
        raise ValueError(f"edges must ascend from above 0, got {list(chosen)}")
    ranges = []
    for low, high in zip([0, *chosen], [*chosen, None], strict=True):
        turns = {key: n for key, n in lengths.items() if low <= n and (high is None or n < high)}
        part = _renumbered([sample for sample in compared if (sample.prompt_id, sample.turn) in turns])
        method = of_arm(part, Arm.METHOD)
        if method:
            ranges.append(
                LengthRange(
                    low=low,
                    high=high,
                    questions=len({prompt for prompt, _ in turns}),
                    turns=len(turns),
                    median_tokens=float(median(turns.values())),
                    speedup=speedup(of_arm(part, Arm.BASELINE, Arm.CONTROL), method, level),
                    acceptance_length=None if is_cost_only else defined(acceptance_length, method),
                )
            )
    return tuple(ranges)


def filled_edges(lengths: Mapping[tuple[str, int], int]) -> tuple[int, ...]:
    """Those of `EDGES` that make ranges of at least `LEAST_QUESTIONS` questions each; none if there is one.

    Args:
        lengths: Tokens of the prompt of every turn, see `prompt_lengths`.
    """
    kept: list[int] = []
    high = math.inf
    for edge in reversed(EDGES):
        if _questions(lengths, edge, high) >= LEAST_QUESTIONS:
            kept.insert(0, edge)
            high = edge
    while kept and _questions(lengths, 0, kept[0]) < LEAST_QUESTIONS:
        kept.pop(0)
    return tuple(kept)


def prompt_lengths(samples: Sequence[Sample]) -> dict[tuple[str, int], int]:
    """Tokens of the prompt of every turn, as the baseline first read it; keyed by (prompt id, turn)."""
    plain = sorted(of_arm(samples, Arm.BASELINE), key=lambda sample: sample.repeat)
    lengths: dict[tuple[str, int], int] = {}
    for sample in plain:
        lengths.setdefault((sample.prompt_id, sample.turn), sample.prompt_tokens)
    return lengths


def spans_lengths(ranges: Sequence[LengthRange]) -> bool:
    """Whether prompts differ so much in length that a table by length says something.

    There must be several ranges, and the prompts of the last must be `LEAST_RATIO` times as long as those of
    the first.
    """
    return len(ranges) > 1 and ranges[-1].median_tokens >= LEAST_RATIO * ranges[0].median_tokens


def _questions(lengths: Mapping[tuple[str, int], int], low: float, high: float) -> int:
    """Questions with a turn whose prompt has from `low` to below `high` tokens."""
    return len({prompt for (prompt, _), length in lengths.items() if low <= length < high})


def _renumbered(samples: Sequence[Sample]) -> list[Sample]:
    """The samples with the turns of every question counted from 0 again, without the turns left out."""
    turns: dict[str, list[int]] = {}
    for sample in samples:
        turns.setdefault(sample.prompt_id, []).append(sample.turn)
    places = {
        (prompt, turn): place
        for prompt, listed in turns.items()
        for place, turn in enumerate(sorted(set(listed)))
    }
    return [replace(sample, turn=places[sample.prompt_id, sample.turn]) for sample in samples]
