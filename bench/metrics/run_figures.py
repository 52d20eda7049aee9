"""All figures of one run, as its table shows them: what each is, what an arm took, how a figure is written.

A figure that the samples do not determine is None, never 0, and is written ``-``. The other modules of this
folder say how each is estimated.

A method that searches while it decodes counts ``searching_rounds`` (rounds with the search on) and
``search_steps`` (candidates scored) in every sample, and books the time to the phase ``search``. A sample is
*cold* if the search was on in any of its rounds, else *warm*. ``skipped_sublayers`` are summed over rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan

from bench.metrics import lossy
from bench.metrics.counts import Position, UndefinedError, decode_speed
from bench.metrics.experts import ExpertFigures
from bench.metrics.intervals import AaCheck, Interval
from bench.records.model import Arm, Run, Sample, Verdict


@dataclass(frozen=True, slots=True)
class Resources:
    """Memory and energy of an arm; None where they were not measured, as on a CPU.

    Args:
        allocated_bytes: Most that PyTorch had allocated, weights and cache included.
        reserved_bytes: Most that its allocator held.
        joules_per_token: Energy of the whole GPU over output tokens, prefill included, sum over sum.
    """

    allocated_bytes: int | None
    reserved_bytes: int | None
    joules_per_token: float | None


UNMEASURED = Resources(None, None, None)


@dataclass(frozen=True, slots=True)
class SearchCost:
    """Decode speeds around a search, in tokens per second; None where there is no such sample.

    Args:
        cold: While the search was on, its own time included.
        warm: After it had ended.
        total: Over all samples.
        share: Share of decode time that the search took, pooled.
        rounds: Rounds decoded while it was on.
        steps: Candidates scored.
        has_ended: Whether any sample was decoded after the search had ended.
    """

    cold: float | None
    warm: float | None
    total: float
    share: float
    rounds: int
    steps: int
    has_ended: bool


@dataclass(frozen=True, slots=True)
class LossyFigures:
    """Quality of a lossy method beside its baseline.

    Args:
        baseline_answers: Right answers of the baseline.
        method_answers: Right answers of the method, over the same prompts.
        baseline_nll: Nats per token of the baseline's output under the target.
        method_nll: Nats per token of the method's output under the target.
        agreement: Tokens before the first difference from the baseline's output, mean over samples.
        group_sizes: How many groups hold how many tokens, where tokens are merged into one cache entry.
        entries_per_token: See `kv_entries_per_token`.
        cache_share: See `cache_share`.
        bound: Most that `speedup_bound` allows for these groups.
    """

    baseline_answers: lossy.Answers
    method_answers: lossy.Answers
    baseline_nll: float | None
    method_nll: float | None
    agreement: float | None
    group_sizes: Mapping[int, int]
    entries_per_token: float | None
    cache_share: float | None
    bound: float | None


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """What one arm does by itself, over the compared prompts.

    `contention` is wall time over CPU time of the decoding thread.
    """

    decode_tokens_per_s: float | None
    end_to_end_tokens_per_s: float | None
    contention: float | None
    unsteady_prompts: int | None
    """Prompts whose decode time per token varies by more than 5 % over repeats; None with a single repeat."""
    resources: Resources = UNMEASURED


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Acceptance of the method over all of its samples; see `bench.metrics.counts` for each estimator."""

    pooled: float | None
    request_mean: float | None
    steady: float | None
    per_drafted: float | None
    per_verified: float | None
    positions: tuple[Position, ...]
    spec_bench: float | None = None


@dataclass(frozen=True, slots=True)
class Speedup:
    """One arm against another, mostly the method against the baseline, on one set of prompts."""

    prompts: int
    decode: Interval | None
    end_to_end: Interval | None
    decode_geometric: Interval | None
    end_to_end_geometric: Interval | None
    spec_bench: float | None


@dataclass(frozen=True, slots=True)
class Subtask:
    """Figures of one subtask."""

    name: str
    speedup: Speedup
    acceptance_length: float | None
    acceptance_length_spec_bench: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """All numbers of one run's table."""

    run: Run
    repeats: int
    speedup: Speedup
    subtasks: tuple[Subtask, ...]
    baseline: ArmFigures
    method: ArmFigures
    acceptance: Acceptance
    time_split: Mapping[str, float] | None
    aa_decode: AaCheck | None
    aa_end_to_end: AaCheck | None
    verdicts: Mapping[Verdict, int]
    first_divergences: tuple[int, ...]
    lossy: LossyFigures | None
    """Only of lossy methods, which have no verdicts."""
    failures: Mapping[str, int]
    """Failed samples of baseline and method by arm and reason, most frequent first."""
    excluded: tuple[str, ...]
    """Prompts that are not complete in baseline and method."""
    notes: tuple[str, ...]
    search: SearchCost | None = None
    """Only of methods that search while they decode."""
    skipped: float | None = None
    """Share of sub-layers left out while drafting, of methods that skip any."""
    experts: ExpertFigures | None = None
    evidence: str | None = None
    """What may be said of the output: proved by a certificate, declared only, or lossy."""
    against_eager: Speedup | None = None
    """The method (the baseline, where it is alone) against the eager arm; None for runs without that arm."""
    eager_failures: Mapping[str, int] = field(default_factory=dict)
    """As `failures`, of the eager arm: nothing but `against_eager` depends on them."""
    compared: Sequence[Sample] = field(default=(), repr=False)
    """The method's samples of the prompts that count, for figures that few readers need."""

    @property
    def is_valid(self) -> bool | None:
        """Whether the A/A controls hold; None where the run has too few prompts or repeats for one."""
        checks = [check.is_valid for check in (self.aa_decode, self.aa_end_to_end) if check]
        known = [is_valid for is_valid in checks if is_valid is not None]
        return all(known) if known else None

    @property
    def is_lossy(self) -> bool:
        """Whether the output need not be the model's own."""
        return bool(self.run.labels.get("exactness") == "lossy")

    @property
    def is_cost_only(self) -> bool:
        """Whether acceptance was given, or follows from random weights: only times mean anything."""
        return bool(self.run.labels.get("cost only"))


def resources(samples: Sequence[Sample]) -> Resources:
    """Peaks and energy over all samples of an arm; one missing reading leaves the figure unknown."""
    joules = _all_known(sample.energy_j for sample in samples)
    allocated = _all_known(sample.peak_memory_bytes for sample in samples)
    reserved = _all_known(sample.peak_reserved_bytes for sample in samples)
    return Resources(
        allocated_bytes=None if allocated is None else int(max(allocated)),
        reserved_bytes=None if reserved is None else int(max(reserved)),
        joules_per_token=None if joules is None else sum(joules) / sum(len(sample.ids) for sample in samples),
    )


def search_cost(samples: Sequence[Sample]) -> SearchCost:
    """Speed during, after and in all, and the search's share of decode time.

    Raises:
        UndefinedError: If no sample is of a method that searches, or none decoded more than its first token.
    """
    searching = [sample for sample in samples if "searching_rounds" in sample.counts]
    if not searching:
        raise UndefinedError("search_cost needs samples of a method that searches")
    cold = [sample for sample in searching if sample.counts["searching_rounds"]]
    warm = [sample for sample in searching if sample.rounds and not sample.counts["searching_rounds"]]
    timings = [sample.timing for sample in searching if sample.timing is not None]
    search_s = sum(timing.phases_s.get("search", 0.0) for timing in timings)
    return SearchCost(
        cold=decode_speed(cold) if cold else None,
        warm=decode_speed(warm) if warm else None,
        total=decode_speed(searching),
        share=search_s / sum(timing.decode_s for timing in timings),
        rounds=sum(sample.counts["searching_rounds"] for sample in searching),
        steps=sum(sample.counts["search_steps"] for sample in searching),
        has_ended=bool(warm),
    )


def skipped_share(samples: Sequence[Sample]) -> float:
    """Share of sub-layers that drafting left out, pooled over rounds.

    Raises:
        UndefinedError: If no round is of a method that skips sub-layers.
    """
    total = sum(sample.counts.get("sublayers", 0) for sample in samples)
    if not total:
        raise UndefinedError("skipped_share needs a round of a method that skips sub-layers")
    return sum(sample.counts.get("skipped_sublayers", 0) for sample in samples) / total


def lossy_figures(run: Run, samples: Sequence[Sample]) -> LossyFigures | None:
    """The figures of a lossy run; None for a run that promises the model's own output."""
    if run.labels.get("exactness") != "lossy":
        return None
    good = [sample for sample in samples if sample.error is None]
    baseline = [sample for sample in good if sample.arm is Arm.BASELINE]
    method = [sample for sample in good if sample.arm is Arm.METHOD]
    sizes, weights = lossy.group_sizes(method), run.labels.get("pass_weights")
    return LossyFigures(
        baseline_answers=lossy.answers(baseline),
        method_answers=lossy.answers(method),
        baseline_nll=_defined(lossy.nll_per_token, baseline),
        method_nll=_defined(lossy.nll_per_token, method),
        agreement=_defined(lossy.agreement_length, method),
        group_sizes=sizes,
        entries_per_token=_defined(lossy.kv_entries_per_token, method),
        cache_share=_defined(lossy.cache_share, method),
        bound=lossy.speedup_bound(sizes, lossy.PassWeights(**weights)) if sizes and weights else None,
    )


def number(value: float | None, form: str = ".2f", unit: str = "") -> str:
    """A number in a format of `format`, followed by its unit."""
    return "-" if value is None else f"{value:{form}}{unit}"


def speedup(interval: Interval | None, digits: int = 2, unknown: str = "") -> str:
    """A speedup with its interval, ``2.86x [2.80, 2.92]``; with two or three questions it may reach far up.

    Args:
        interval: The speedup.
        digits: After the decimal point.
        unknown: What stands in place of an interval that too few questions left unknown.
    """
    if interval is None or isnan(interval.estimate):
        return "-"
    low = f"{interval.low:.{digits}f}"
    high = f"{interval.high:.{digits}f}" if interval.high < 1000 else ">999"
    return f"{interval.estimate:.{digits}f}x" + (f" [{low}, {high}]" if interval.is_known else unknown)


def _all_known(readings: Iterable[float | None]) -> list[float] | None:
    """The readings, or None where one is missing or there is none."""
    given = list(readings)
    known = [reading for reading in given if reading is not None]
    return known if known and len(known) == len(given) else None


def _defined(estimate: Callable[[Sequence[Sample]], float], samples: Sequence[Sample]) -> float | None:
    try:
        return estimate(samples)
    except UndefinedError:
        return None
