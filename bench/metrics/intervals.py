"""What arms spent on each question, and the interval of a mean over questions and sessions.

Questions and sessions are both random: another set of questions or another day would give another mean. The
variance of the mean of one value per question and session is the sum of what the questions and what the
sessions show on their own; what varies from cell to cell is counted in both, which errs on the wide side.

Shapes: A arms, Q questions, S sessions, R repeats within a session.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from bench.metrics.counts import Work

Floats = npt.NDArray[np.float64]

GATE_LEVEL = 0.99
"""Level of the intervals that must hold 1 for a run to count: at 0.95 one sound check in twenty would fail by
chance."""
_ROUNDING = 1e-12  # of bounds that go through logarithms: equal times must give an interval that holds 1


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence interval at `level`; bounds are NaN below two questions."""

    estimate: float
    low: float
    high: float
    level: float

    @property
    def is_known(self) -> bool:
        """Whether there were enough questions for an interval."""
        return not (np.isnan(self.low) or np.isnan(self.high))

    @property
    def bar(self) -> tuple[float, float]:
        """The ends of its bar in a figure: the estimate twice where there is no interval."""
        return (self.low, self.high) if self.is_known else (self.estimate, self.estimate)

    def contains(self, value: float) -> bool:
        """Whether `value` lies in the closed interval, up to rounding; false where that is unknown."""
        return self.low - _ROUNDING <= value <= self.high + _ROUNDING


def with_bar(interval: Interval | None) -> tuple[float, float, float]:
    """An estimate and the ends of its bar in a figure; nan where nothing was measured."""
    return (np.nan, np.nan, np.nan) if interval is None else (interval.estimate, *interval.bar)


@dataclass(frozen=True, slots=True)
class AaCheck:
    """The speedup of the baseline over itself."""

    interval: Interval

    @property
    def is_valid(self) -> bool | None:
        """Whether the interval contains 1.00; None where there is no interval."""
        return self.interval.contains(1.0) if self.interval.is_known else None


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """What each arm spent and emitted in each cell.

    Args:
        names: Names of the arms [A], all different.
        seconds: Seconds spent, shape [A, Q, S, R]; NaN where the arm was not measured.
        tokens: Tokens emitted in them, same shape, NaN in the same places.

    Raises:
        ValueError: If shapes, names or values do not fit this.
    """

    names: tuple[str, ...]
    seconds: Floats
    tokens: Floats

    def __post_init__(self) -> None:
        shapes = self.seconds.shape, self.tokens.shape
        if shapes[0] != shapes[1] or len(shapes[0]) != 4 or shapes[0][0] != len(self.names):
            raise ValueError(f"need two arrays [{len(self.names)}, Q, S, R], got {shapes[0]} and {shapes[1]}")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"the names of the arms must differ, got {self.names}")
        if (np.isnan(self.seconds) != np.isnan(self.tokens)).any():
            raise ValueError("seconds and tokens must be NaN in the same cells")
        if any((values < 0).any() or np.isinf(values).any() for values in (self.seconds, self.tokens)):
            raise ValueError("seconds and tokens must be finite and not negative")

    @classmethod
    def by_question(cls, works: Mapping[str, Sequence[Work]]) -> Costs:
        """Of arms of which only the work per question is known, in the same order of questions for each."""
        done = [[[work.seconds, work.tokens] for work in of_arm] for of_arm in works.values()]
        seconds, tokens = np.moveaxis(np.array(done, dtype=np.float64), 2, 0)[..., None, None]
        return cls(tuple(works), seconds, tokens)

    def index(self, name: str) -> int:
        """Where the arm `name` stands on the first axis."""
        if name not in self.names:
            raise ValueError(f"there is no arm {name!r}, only {', '.join(self.names)}")
        return self.names.index(name)

    def of(self, name: str) -> tuple[Floats, Floats]:
        """Seconds and tokens of the arm `name`, shapes [Q, S, R]; NaN in both where the arm did no work."""
        seconds, tokens = self.seconds[self.index(name)], self.tokens[self.index(name)]
        has_work = (seconds > 0) & (tokens > 0)
        return np.where(has_work, seconds, np.nan), np.where(has_work, tokens, np.nan)

    def logs(self, name: str) -> Floats:
        """Log of the seconds per token of an arm in each cell, shape [Q, S, R]; NaN where it did no work."""
        seconds, tokens = self.of(name)
        return np.asarray(np.log(seconds / tokens), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class CrossedMean:
    """A mean and the distribution of its error.

    Intervals and p-values come from two statistics: Student's t, which covers well where a few questions lie
    far out on either side, and t with P. Hall's correction for skewness (1992, "On the removal of skewness by
    transformation"), which covers well where they lie far out on one side. The wider bound counts at each
    end, and the larger p-value.

    Args:
        mean: The mean, every question weighing the same.
        variance: Variance of that mean; NaN below two questions.
        degrees: Degrees of freedom of the variance, after Satterthwaite (1946).
        skewness: Third central moment of the mean over `variance` to the power 1.5.
        questions: Questions with a value.
        sessions: Sessions with a value.
    """

    mean: float
    variance: float
    degrees: float
    skewness: float
    questions: int
    sessions: int

    def bounds(self, level: float) -> tuple[float, float]:
        """Lower and upper bound of the interval at `level`; NaN below two questions."""
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}")
        if not self.variance > 0:
            return self.mean + self.variance, self.mean + self.variance
        error, edge = math.sqrt(self.variance), t_quantile(level, self.degrees)
        lower, upper = self._unskewed(-edge), self._unskewed(edge)
        return self.mean - error * max(edge, upper), self.mean - error * min(-edge, lower)

    def ratio(self, level: float) -> Interval:
        """The exponential of the mean, where it is one of log ratios, with its interval."""
        low, high = np.exp(self.bounds(level))
        return Interval(float(np.exp(self.mean)), float(low), float(high), level)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of a true mean of 0; NaN below two questions."""
        if not self.variance > 0:
            return math.nan if math.isnan(self.variance) else float(self.mean == 0)
        t = self.mean / math.sqrt(self.variance)
        return max(t_p_value(t, self.degrees), t_p_value(self._skewed(t), self.degrees))

    def _skewed(self, t: float) -> float:
        """Hall's statistic of t: monotone, and close to symmetric where t is skewed."""
        k = self.skewness
        return t + k * t * t / 3 + k * k * t * t * t / 27 + k / 6

    def _unskewed(self, corrected: float) -> float:
        """The t whose Hall's statistic is `corrected`."""
        if abs(self.skewness) < 1e-6:
            return corrected
        cube = 1 + self.skewness * (corrected - self.skewness / 6)
        return float(3 * (np.cbrt(cube) - 1) / self.skewness)


def crossed_mean(values: Floats) -> CrossedMean:
    """The mean over questions of each question's mean over sessions.

    With one session nothing is known of how days differ: the interval then holds for the machine as it was in
    that session. A question absent from a session is averaged over those it has.

    Coverage of the nominal 95 % interval, simulated with 8000 runs each at 12, 20 and 80 questions, 1 and 3
    sessions, question effects normal, t with 3 degrees of freedom, log-normal or exponential, session effects
    of 0 to 3 %: 93.2 to 98.9 %. The lowest is a session effect far above the noise of 80 equal questions, the
    highest three sessions that do not differ. Student's t alone falls to 90.7 % for skewed questions,
    Hall's statistic alone to 92.7 % for heavy tails.

    Args:
        values: Values [Q, S]; NaN where a question was not measured in a session.
    """
    values = values[np.isfinite(values).any(axis=1)][:, np.isfinite(values).any(axis=0)]
    questions, sessions = values.shape
    of_question = mean_over(values, axis=1)  # [Q]
    if questions < 2:
        mean = float(of_question[0]) if questions else math.nan
        return CrossedMean(mean, math.nan, math.nan, 0.0, questions, sessions)
    parts = (of_question - of_question.mean()) / questions  # [Q]
    by_question = float((parts**2).sum()) * questions / (questions - 1)
    by_session = _session_variance(values, of_question)
    variance = by_question + by_session
    squares = by_question**2 / (questions - 1) + by_session**2 / max(sessions - 1, 1)
    degrees = variance**2 / squares if variance > 0 else math.nan
    skewness = _third_moment(parts) / variance**1.5 if variance > 0 else 0.0
    return CrossedMean(float(of_question.mean()), variance, degrees, skewness, questions, sessions)


def _session_variance(values: Floats, of_question: Floats) -> float:
    """Variance of the mean as the sessions show it; 0 with one session, where it cannot be seen."""
    questions, sessions = values.shape
    if sessions < 2:
        return 0.0
    weights = questions * np.isfinite(values).sum(axis=1, keepdims=True)  # [Q, 1]
    parts = np.nansum((values - of_question[:, None]) / weights, axis=0)  # [S]
    return float((parts**2).sum() * sessions / (sessions - 1))


def _third_moment(parts: Floats) -> float:
    """Third central moment of a sum of independent parts whose deviations from their mean are `parts`."""
    count = len(parts)
    if count < 3:
        return 0.0
    return float((parts**3).sum() * count**2 / ((count - 1) * (count - 2)))


def mean_over(values: Floats, axis: int) -> Floats:
    """Mean along `axis` of the values that are not NaN; NaN where there is none."""
    counts = np.isfinite(values).sum(axis=axis)
    means: Floats = np.where(counts > 0, np.nansum(values, axis=axis) / np.maximum(counts, 1), np.nan)
    return means


def t_p_value(t: float, degrees: float) -> float:
    """Two-sided p-value of `t` under Student's distribution with `degrees` degrees of freedom."""
    return _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


@lru_cache(maxsize=4096)  # runs that asked as many questions have the same degrees of freedom
def t_quantile(level: float, degrees: float) -> float:
    """The t that Student's distribution stays within, on both sides, with probability `level`.

    Newton's method from the normal quantile, which lies below: the p-value is convex in t, so no step goes
    too far.
    """
    t = NormalDist().inv_cdf((1 + level) / 2)
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
    for _ in range(200):
        slope = 2 * math.exp(log_scale - (degrees + 1) / 2 * math.log1p(t * t / degrees))
        step = (t_p_value(t, degrees) - (1 - level)) / slope
        t += step
        if step < 1e-10 * t:
            break
    return t


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction = 1.0
    for m in range(120, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        fraction = 1 + odd / (1 + even / fraction)
    return math.exp(log_front) / (a * fraction)
