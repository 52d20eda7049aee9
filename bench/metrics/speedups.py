"""Speedups of one run's samples: which samples pair up, and the intervals around their ratios."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from bench.metrics import counts as metrics
from bench.metrics import intervals as stats
from bench.metrics.intervals import AaCheck, Interval, Totals, speed_ratio
from bench.metrics.run_figures import Speedup
from bench.records.model import Arm, Sample

Given = TypeVar("Given")
Number = TypeVar("Number")
PerQuestion = Callable[[Sequence[Sample]], dict[tuple[str, int], metrics.Work]]


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Speedups with the intervals that so many resamples give."""

    level: float
    resamples: int
    seed: int

    def speedup(self, baseline: Sequence[Sample], method: Sequence[Sample]) -> Speedup:
        prompts = len({sample.prompt_id for sample in baseline or method})
        if not baseline or not method:
            return Speedup(prompts, None, None, None, None, None)
        decode = [totals_of(arm, metrics.decode_per_question) for arm in (baseline, method)]
        whole = [totals_of(arm, metrics.end_to_end_per_question) for arm in (baseline, method)]
        return Speedup(
            prompts,
            defined(self._ratio, decode),
            defined(self._ratio, whole),
            defined(self._geometric, decode),
            defined(self._geometric, whole),
            defined(partial(speed_ratio, baseline), method),
        )

    def aa(self, baseline: Sequence[Sample], per_question: PerQuestion) -> AaCheck | None:
        """The baseline over the control; without one, over itself from repeat to repeat."""
        halves = [of_arm(baseline, arm) for arm in (Arm.BASELINE, Arm.CONTROL)]
        if all(halves):
            return defined(self._over_control, [totals_of(half, per_question) for half in halves])
        return defined(self._aa, totals_of(baseline, per_question)) if baseline else None

    def _ratio(self, arms: Sequence[Totals]) -> Interval:
        return stats.paired_speedup(
            arms[0], arms[1], level=self.level, resamples=self.resamples, seed=self.seed
        )

    def _geometric(self, arms: Sequence[Totals]) -> Interval:
        return stats.geometric_speedup(
            arms[0], arms[1], level=self.level, resamples=self.resamples, seed=self.seed
        )

    def _aa(self, totals: Totals) -> AaCheck:
        return stats.aa_check(totals, resamples=self.resamples, seed=self.seed)

    def _over_control(self, halves: Sequence[Totals]) -> AaCheck:
        baseline, control = halves
        return AaCheck(
            stats.paired_speedup(
                baseline, control, level=stats.GATE_LEVEL, resamples=self.resamples, seed=self.seed
            )
        )


def defined(estimate: Callable[[Given], Number], given: Given) -> Number | None:
    """The estimate, or None where the samples do not determine it; every other error is raised."""
    try:
        return estimate(given)
    except metrics.UndefinedError:
        return None


def of_arm(samples: Sequence[Sample], *arms: Arm) -> list[Sample]:
    """The samples of these arms."""
    return [sample for sample in samples if sample.arm in arms]


def totals_of(samples: Sequence[Sample], per_question: PerQuestion) -> Totals:
    """One arm's work, shape [Q, R]; prompts and repeats ascend, so that the rows of two arms pair up."""
    work = per_question(samples)
    prompts, repeats = sorted({key[0] for key in work}), sorted({key[1] for key in work})
    grid = [[work[prompt, repeat] for repeat in repeats] for prompt in prompts]
    return Totals(
        np.array([[cell.seconds for cell in row] for row in grid], dtype=np.float64),
        np.array([[cell.tokens for cell in row] for row in grid], dtype=np.float64),
    )
