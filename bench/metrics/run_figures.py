"""All figures of one run, as its table shows them; one that the samples do not determine is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.metrics.counts import Position
from bench.metrics.intervals import AaCheck, Interval
from bench.metrics.lossy import LossyFigures
from bench.metrics.resources import UNMEASURED, Resources, SearchCost
from bench.metrics.roofline import Probe
from bench.records.model import Run, Verdict


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
    """Quality of a lossy method's output, which has no verdicts."""
    failures: Mapping[str, int]
    """Failed samples of baseline and method by arm and reason, most frequent first."""
    excluded: tuple[str, ...]
    """Prompts that are not complete in baseline and method."""
    notes: tuple[str, ...]
    search: SearchCost | None = None
    """Only of methods that search while they decode."""
    skipped: float | None = None
    """Share of sub-layers left out while drafting, of methods that skip any."""
    evidence: str | None = None
    """What may be said of the output: proved by a certificate, declared only, or lossy."""
    probe: Probe | None = None
    """What passes cost on this machine; None for runs that did not probe."""
    predicted: float | None = None
    """Decode speedup that those costs predict for the method's rounds."""
    against_eager: Speedup | None = None
    """The method (the baseline, where it is alone) against the eager arm; None for runs without that arm."""
    eager_failures: Mapping[str, int] = field(default_factory=dict)
    """As `failures`, of the eager arm: nothing but `against_eager` depends on them."""

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
