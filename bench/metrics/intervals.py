"""Speedups with their uncertainty: which samples count, a bootstrap over questions, the A/A control.

Times count from complete prompts in finished repeats. The unit of resampling is the question, with all of its
turns and repeats: repeats of one question are no new evidence about other questions. Arms compare equal work:
seconds per emitted token, so that an arm that stops early (lossy, or a tie that went the other way) gains
nothing by it.

Shapes: Q questions, R repeats, B resamples.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.metrics.counts import (
    UndefinedError,
    Work,
    end_to_end_per_question,
    end_to_end_work,
    speed_of,
    sum_per_question,
)
from bench.records.model import Sample

Floats = npt.NDArray[np.float64]

GATE_LEVEL = 0.99
"""Of checks that a run must pass: at 0.95 one sound run in twenty would be marked invalid by chance."""
_BLOCK = 1000
"""Resamples drawn at a time: bounds the weight matrix to ``1000 x Q`` floats."""


LEAST_REPEATS = 2
"""Repeats without which there is no A/A control."""


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

    def contains(self, value: float) -> bool:
        """Whether `value` lies in the closed interval; false where the interval is unknown."""
        return self.low <= value <= self.high


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


@dataclass(frozen=True, slots=True)
class AaCheck:
    """The speedup of the baseline over itself."""

    interval: Interval

    @property
    def is_valid(self) -> bool | None:
        """Whether the interval contains 1.00; None where there is no interval."""
        return self.interval.contains(1.0) if self.interval.is_known else None


def complete_prompts(samples: Sequence[Sample]) -> tuple[list[Sample], tuple[str, ...]]:
    """Samples of the prompts that are complete in every arm given, and the ids of the other prompts.

    Complete: every turn seen of the prompt holds a measurement in every repeat and every arm given.
    """
    arms, repeats = {sample.arm for sample in samples}, {sample.repeat for sample in samples}
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt_id, []).append(sample)
    complete = {
        prompt
        for prompt, group in by_prompt.items()
        if all(sample.error is None for sample in group)
        and len(group) == len({sample.turn for sample in group}) * len(repeats) * len(arms)
    }
    kept = [sample for sample in samples if sample.prompt_id in complete]
    return kept, tuple(sorted(by_prompt.keys() - complete))


def finished_repeats(samples: Sequence[Sample]) -> Sequence[Sample]:
    """All samples, or without the last repeats if those were begun and not finished.

    A complete run whose repeats are raised is extended prompt by prompt. Until that has ended, what it had
    before counts: the most repeats, at least two, that every prompt has in full. Without such a number, as in
    the first start of a run, all samples count.
    """
    cells = {(sample.prompt_id, sample.turn, sample.arm) for sample in samples}
    held = Counter(sample.repeat for sample in samples)
    finished = 0
    while held[finished] == len(cells) and cells:
        finished += 1
    if finished < LEAST_REPEATS or finished == len(held):
        return samples
    return [sample for sample in samples if sample.repeat < finished]


def paired_speedup(
    baseline: Totals, method: Totals, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Ratio of totals with a percentile cluster-bootstrap interval over questions.

    The estimator is ``(sum baseline_s / sum baseline_tokens) / (sum method_s / sum method_tokens)``: with
    equal tokens, the ratio of total times. Row q of both arms must be the same question. Questions on which
    an arm did no work (no token after the first, say) carry no rate and are left out of both arms.

    Raises:
        ValueError: If the arms differ in their number of questions.
        UndefinedError: If no question holds work in both.
    """
    sums = _sums(baseline, method)
    resampled = _resample(sums, resamples, seed)  # [B, 4]
    low, high = _bounds(_ratio(resampled), level) if len(sums) > 1 else (np.nan, np.nan)
    return Interval(float(_ratio(sums.sum(axis=0))), float(low), float(high), level)


def geometric_speedup(
    baseline: Totals, method: Totals, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Geometric mean over questions of each one's own speedup: every question weighs the same.

    A question's speedup is the ratio of seconds per token over all its repeats; interval and omissions as in
    `paired_speedup`.

    Raises:
        ValueError, UndefinedError: As `paired_speedup`.
    """
    logs = np.log(_ratio(_sums(baseline, method)))[:, None]  # [Q, 1]
    resampled = _resample(logs, resamples, seed)[:, 0] / len(logs)  # [B]
    low, high = np.exp(_bounds(resampled, level)) if len(logs) > 1 else (np.nan, np.nan)
    return Interval(float(np.exp(logs.mean())), float(low), float(high), level)


def speed_ratio(baseline: Sequence[Sample], method: Sequence[Sample]) -> float:
    """Speedup as Spec-Bench's ``speed.py`` prints it.

    Ratio of two means over questions of ``tokens / seconds`` (turns summed, prefill included). It is unpaired
    and weighs each question's *rate* alike, so a short, quickly answered question counts as much as a long
    one. The method's tokens are its ids; the baseline's are those of its text, tokenised anew, less one per
    turn. That text lacks the end token, so the script counts fewer than were decoded: at 50 tokens per answer
    its figure is about 2 % higher than with ids on both sides. Repeats enter each mean as questions of their
    own.

    Raises:
        UndefinedError: If a sample of the baseline does not say how long its text is in tokens.
    """
    recounted = [(sample, Work(_text_length(sample), end_to_end_work(sample).seconds)) for sample in baseline]
    return _mean_rate(end_to_end_per_question(method)) / _mean_rate(sum_per_question(recounted))


def aa_check(
    baseline: Totals, *, level: float = GATE_LEVEL, resamples: int = 10_000, seed: int = 0
) -> AaCheck:
    """The baseline against itself: its speedup must not differ from 1.00.

    Half A takes repeat 0 of even and repeat 1 of odd questions, half B the others (further pairs of repeats
    alternate alike; an odd last repeat is left out). Arms swap places from repeat to repeat, so the
    alternation gives both halves each place equally often and position effects cancel.

    Raises:
        UndefinedError: If there are fewer than two repeats or no question holds work.
    """
    if baseline.seconds.ndim != 2 or baseline.seconds.shape[1] < 2:
        raise UndefinedError(f"an A/A check needs at least 2 repeats, got shape {baseline.seconds.shape}")
    rows, repeats = baseline.seconds.shape
    used = repeats - repeats % 2
    in_a = (np.arange(rows)[:, None] + np.arange(used)) % 2 == 0  # [Q, used]
    half_a = _masked(baseline, in_a, used)
    half_b = _masked(baseline, ~in_a, used)
    return AaCheck(paired_speedup(half_a, half_b, level=level, resamples=resamples, seed=seed))


def repeat_variation(totals: Totals) -> Floats:
    """Coefficient of variation over repeats of each question's seconds per token, shape [Q].

    Sample standard deviation (``R - 1``) over mean; NaN for a question with a repeat without tokens or
    seconds.

    Raises:
        UndefinedError: If there are fewer than two repeats.
    """
    if totals.seconds.ndim != 2 or totals.seconds.shape[1] < 2:
        raise UndefinedError(
            f"variation over repeats needs at least 2 repeats, got shape {totals.seconds.shape}"
        )
    has_work: npt.NDArray[np.bool_] = np.all((totals.tokens > 0) & (totals.seconds > 0), axis=1)  # [Q]
    variation = np.full(len(has_work), np.nan)
    cost = totals.seconds[has_work] / totals.tokens[has_work]  # [Q', R]
    variation[has_work] = cost.std(axis=1, ddof=1) / cost.mean(axis=1)
    return variation


def outliers(variation: Floats, *, limit: float = 0.05) -> tuple[int, ...]:
    """Indices of the questions whose variation over repeats exceeds `limit`; NaN never does."""
    return tuple(int(i) for i in np.flatnonzero(variation > limit))


def _sums(baseline: Totals, method: Totals) -> Floats:
    """Baseline seconds and tokens, method seconds and tokens of the questions with work, shape [Q', 4]."""
    if len(baseline.seconds) != len(method.seconds):
        raise ValueError(
            f"arms must pair up, got {len(baseline.seconds)} and {len(method.seconds)} questions"
        )
    columns = np.stack([*baseline.questions, *method.questions], axis=1)
    columns = columns[(columns > 0).all(axis=1)]
    if not len(columns):
        raise UndefinedError("a speedup needs a question with tokens and time in both arms")
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


def _text_length(sample: Sample) -> int:
    """Tokens of the text as Spec-Bench counts them: one less than the tokenizer returns, the start token."""
    if sample.text_tokens is None:
        raise UndefinedError("Spec-Bench's formula needs the length of the baseline's texts in tokens")
    return sample.text_tokens - 1


def _mean_rate(works: Mapping[tuple[str, int], Work]) -> float:
    rates = [speed_of([work]) for work in works.values()]
    if not any(rates):
        raise UndefinedError("a mean of rates needs a question with tokens")
    return sum(rates) / len(rates)
