"""Every arm of an arena compared with every other, and ranks that are shared where the order is not known.

Shapes: A arms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.metrics.counts import UndefinedError
from bench.metrics.intervals import Costs, Floats, Interval
from bench.metrics.speedups import mean_log_ratio

FEW_QUESTIONS = 20
"""Below this many questions a result is marked "few"."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairwise:
    """Every arm compared with every other.

    Args:
        names: Names of the arms [A].
        intervals: `intervals[i][j]` says how many times as fast arm i is as arm j; NaN where they share no
            cell.
        p_values: Two-sided p-values of equal speed [A, A], not corrected for their number; 1 on the diagonal,
            NaN where unknown.
    """

    names: tuple[str, ...]
    intervals: tuple[tuple[Interval, ...], ...]
    p_values: Floats


def few(questions: int) -> str:
    """The word "few" where a result rests on fewer than `FEW_QUESTIONS` questions, otherwise nothing."""
    return "few" if questions < FEW_QUESTIONS else ""


def pairwise(costs: Costs, level: float = 0.95) -> Pairwise:
    """`faster_by` for every pair of arms, with the p-value of the hypothesis that both are equally fast."""
    count = len(costs.names)
    intervals = [[Interval(1.0, 1.0, 1.0, level)] * count for _ in range(count)]
    p_values = np.ones((count, count))
    for i in range(count):
        for j in range(i + 1, count):
            interval, p_value = _pair(costs, costs.names[i], costs.names[j], level)
            intervals[i][j], intervals[j][i] = interval, _inverse(interval)
            p_values[i, j] = p_values[j, i] = p_value
    return Pairwise(costs.names, tuple(map(tuple, intervals)), p_values)


def holm(p_values: Floats) -> Floats:
    """P-values corrected for their number after Holm (1979), in the same order.

    Rejecting where the corrected value lies under 5 % rejects a true hypothesis anywhere among them with a
    probability of at most 5 %. NaN stays NaN and does not count as a test.

    Args:
        p_values: P-values [N].
    """
    adjusted = np.full(len(p_values), np.nan)
    known = np.flatnonzero(np.isfinite(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return adjusted


def shared_ranks(costs: Costs, arms: Sequence[str], level: float = 0.95) -> dict[str, int]:
    """The rank of each of `arms`, 1 for the fastest; a rank is shared unless the difference is significant.

    An arm's rank is one more than the number of arms that are significantly faster than it: the best of
    `rank_ranges`.

    Raises:
        ValueError: If an arm does not exist.
    """
    return {name: best for name, (best, _) in rank_ranges(costs, arms, level).items()}


def rank_ranges(costs: Costs, arms: Sequence[str], level: float = 0.95) -> dict[str, tuple[int, int]]:
    """The best and the worst rank that each of `arms` may have, as far as differences are significant.

    The best is one more than the number of arms that are significantly faster: those whose p-value of equal
    speed, Holm-corrected over all pairs of `arms`, lies under 1 - `level`. The worst leaves room for the arms
    that are significantly slower. Among equal arms the chance that any range excludes a rank is at most
    1 - `level`. Significance is not transitive: of three arms the first may beat only the last, while the
    middle one shares the first rank with the first.

    Raises:
        ValueError: If an arm does not exist.
    """
    chosen = [costs.index(name) for name in arms]
    compared = pairwise(Costs(tuple(arms), costs.seconds[chosen], costs.tokens[chosen]), level)
    upper = np.triu_indices(len(arms), 1)
    adjusted = np.ones((len(arms), len(arms)))
    adjusted[upper] = holm(compared.p_values[upper])
    adjusted = np.minimum(adjusted, adjusted.T)
    is_significant = adjusted < 1 - level  # [A, A]; false where the p-value is NaN
    is_slower = np.array([[interval.estimate < 1 for interval in row] for row in compared.intervals])
    faster = (is_significant & is_slower).sum(axis=1)  # arms that are faster than each
    slower = (is_significant & ~is_slower).sum(axis=1)
    ranges = zip((1 + faster).tolist(), (len(arms) - slower).tolist(), strict=True)
    return dict(zip(arms, ranges, strict=True))


def _pair(costs: Costs, arm: str, other: str, level: float) -> tuple[Interval, float]:
    """Interval and p-value of a pair of arms, all NaN where they share no cell."""
    try:
        compared = mean_log_ratio(costs, arm, other)
    except UndefinedError:
        return Interval(np.nan, np.nan, np.nan, level), np.nan
    return compared.ratio(level), compared.p_value


def _inverse(interval: Interval) -> Interval:
    return Interval(1 / interval.estimate, 1 / interval.high, 1 / interval.low, interval.level)
