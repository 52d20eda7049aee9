"""The design before the arena: a percentile bootstrap over questions, and an A/A check between repeats.

Only simulations use it, to show what it misses.

Shapes: Q questions, R repeats, B resamples.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.metrics.intervals import GATE_LEVEL, AaCheck, Floats, Interval

_BLOCK = 1000
"""Resamples drawn at a time: bounds the weight matrix to ``1000 x Q`` floats."""


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """One arm's work per question and repeat.

    Args:
        seconds: Seconds spent, shape [Q, R] or [Q].
        tokens: Tokens emitted in them, same shape.
    """

    seconds: Floats
    tokens: Floats

    def __post_init__(self) -> None:
        if (
            self.seconds.shape != self.tokens.shape
            or self.seconds.ndim not in (1, 2)
            or not self.seconds.size
        ):
            raise ValueError(
                f"need equal shapes [Q] or [Q, R], got {self.seconds.shape}, {self.tokens.shape}"
            )
        if not (np.isfinite(self.seconds).all() and (self.seconds >= 0).all() and (self.tokens >= 0).all()):
            raise ValueError("seconds and tokens must be finite and not negative")

    @property
    def questions(self) -> tuple[Floats, Floats]:
        """Seconds and tokens of each question over all its repeats, shapes [Q]."""
        rows = len(self.seconds)
        return self.seconds.reshape(rows, -1).sum(axis=1), self.tokens.reshape(rows, -1).sum(axis=1)


def paired_speedup(
    baseline: Totals, method: Totals, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Ratio of totals with a percentile cluster-bootstrap interval over questions.

    The estimator is ``(sum baseline_s / sum baseline_tokens) / (sum method_s / sum method_tokens)``: with
    equal tokens, the ratio of total times. Row q of both arms must be the same question. Questions on which
    an arm did no work (no token after the first, say) carry no rate and are left out of both arms.

    Raises:
        ValueError: If the arms differ in their number of questions, or none holds work in both.
    """
    sums = _sums(baseline, method)
    resampled = _resample(sums, resamples, seed)  # [B, 4]
    low, high = _bounds(_ratio(resampled), level) if len(sums) > 1 else (np.nan, np.nan)
    return Interval(float(_ratio(sums.sum(axis=0))), float(low), float(high), level)


def aa_check(
    baseline: Totals, *, level: float = GATE_LEVEL, resamples: int = 10_000, seed: int = 0
) -> AaCheck:
    """The baseline against itself: its speedup must not differ from 1.00.

    Half A takes repeat 0 of even and repeat 1 of odd questions, half B the others (further pairs of repeats
    alternate alike; an odd last repeat is left out). Arms swap places from repeat to repeat, so the
    alternation gives both halves each place equally often and position effects cancel.

    Raises:
        ValueError: If there are fewer than two repeats or no question holds work.
    """
    if baseline.seconds.ndim != 2 or baseline.seconds.shape[1] < 2:
        raise ValueError(f"an A/A check needs at least 2 repeats, got shape {baseline.seconds.shape}")
    rows, repeats = baseline.seconds.shape
    used = repeats - repeats % 2
    in_a = (np.arange(rows)[:, None] + np.arange(used)) % 2 == 0  # [Q, used]
    half_a = _masked(baseline, in_a, used)
    half_b = _masked(baseline, ~in_a, used)
    return AaCheck(paired_speedup(half_a, half_b, level=level, resamples=resamples, seed=seed))


def _sums(baseline: Totals, method: Totals) -> Floats:
    """Baseline seconds and tokens, method seconds and tokens of the questions with work, shape [Q', 4]."""
    if len(baseline.seconds) != len(method.seconds):
        raise ValueError(
            f"arms must pair up, got {len(baseline.seconds)} and {len(method.seconds)} questions"
        )
    columns = np.stack([*baseline.questions, *method.questions], axis=1)
    columns = columns[(columns > 0).all(axis=1)]
    if not len(columns):
        raise ValueError("a speedup needs a question with tokens and time in both arms")
    return columns


def _ratio(sums: Floats) -> Floats:
    """Speedup from the four columns of `_sums`, shape [..., 4] -> [...]."""
    ratio: Floats = (sums[..., 0] / sums[..., 1]) / (sums[..., 2] / sums[..., 3])
    return ratio


def _resample(rows: Floats, resamples: int, seed: int) -> Floats:
    """Column sums of `resamples` draws of Q rows with replacement, shape [Q, C] -> [B, C]."""
    rng = np.random.default_rng(seed)
    size = len(rows)
    blocks = []
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        rows_drawn = rng.integers(0, size, (count, size)) + size * np.arange(count)[:, None]
        weights = np.bincount(rows_drawn.ravel(), minlength=count * size).reshape(
            count, size
        )  # times each row was drawn
        blocks.append(weights.astype(np.float64) @ rows)
    return np.concatenate(blocks)


def _bounds(resampled: Floats, level: float) -> Floats:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    return np.asarray(np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2]), dtype=np.float64)


def _masked(totals: Totals, mask: npt.NDArray[np.bool_], used: int) -> Totals:
    return Totals(np.where(mask, totals.seconds[:, :used], 0.0), np.where(mask, totals.tokens[:, :used], 0.0))
