"""What one run says: from its samples to the numbers of its final table.

Only prompts that are complete in baseline and method enter times and speedups; the others are counted and
named. Verdicts, failures and acceptance come from every sample of the method, so that leaving a prompt out
hides nothing. The eager arm is held against the method apart from all else: nothing else depends on it. A
number that the samples do not determine is None, never 0. `bench.metrics.run_figures` defines the result,
`bench.show.table` prints it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from bench.metrics import counts as metrics
from bench.metrics import intervals as stats
from bench.metrics import roofline
from bench.metrics.intervals import AaCheck, Interval, Totals
from bench.metrics.lossy import lossy_figures
from bench.metrics.resources import resources
from bench.metrics.roofline import Probe
from bench.metrics.run_figures import Acceptance, ArmFigures, Speedup, Subtask, Summary
from bench.metrics.search_cost import search_cost, skipped_share
from bench.records.model import Arm, Run, Sample, Verdict
from bench.show.table import render

__all__ = ["FEW_PROMPTS", "Summary", "render", "summarise"]

FEW_PROMPTS = 10
"""Below this, a percentile bootstrap is known to be too narrow; the table says so."""

Given = TypeVar("Given")
Number = TypeVar("Number")
PerQuestion = Callable[[Sequence[Sample]], dict[tuple[str, int], metrics.Work]]


def summarise(
    run: Run,
    samples: Sequence[Sample],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    badge: str | None = None,
) -> Summary:
    """All numbers of one run, even if it is unfinished, has failures, or holds the baseline only.

    `badge` is what `bench.prove.certificates.badge_of` says of the run's output.
    """
    eager, samples = _arm(samples, Arm.EAGER), [one for one in samples if one.arm is not Arm.EAGER]
    compared, excluded = _complete(samples)
    good = [one for one in samples if one.error is None]
    baseline, method = _arm(compared, Arm.BASELINE), _arm(compared, Arm.METHOD)
    all_method = _arm(good, Arm.METHOD)
    draws = _Draws(level, resamples, seed)
    speedup = draws.speedup(baseline, method)
    probe = _probe(run)
    against_eager = _against_eager(eager, method if _arm(samples, Arm.METHOD) else baseline, draws)
    is_given = bool(run.labels.get("cost only"))  # such an acceptance must never pass for a result
    return Summary(
        run=run,
        repeats=len({one.repeat for one in samples}),
        speedup=speedup,
        subtasks=_subtasks(compared, draws, is_given=is_given),
        baseline=_figures(baseline),
        method=_figures(method),
        acceptance=_acceptance([] if is_given else all_method),
        time_split=_defined(metrics.time_split, method),
        aa_decode=draws.aa(baseline, metrics.decode_per_question),
        aa_end_to_end=draws.aa(baseline, metrics.end_to_end_per_question),
        verdicts=metrics.verdict_counts(all_method) if all_method else dict.fromkeys(Verdict, 0),
        first_divergences=metrics.first_divergences(all_method) if all_method else (),
        lossy=lossy_figures(run, samples),
        failures=_failures(samples),
        excluded=excluded,
        notes=(*_notes(run, speedup.prompts), *_eager_notes(against_eager, speedup.prompts)),
        search=_defined(search_cost, method),
        skipped=_defined(skipped_share, all_method),
        badge=badge,
        probe=probe,
        predicted=_predicted(run, probe, method),
        against_eager=against_eager,
        eager_failures=_failures(eager),
    )


@dataclass(frozen=True, slots=True)
class _Draws:
    """How intervals are drawn."""

    level: float
    resamples: int
    seed: int

    def speedup(self, baseline: Sequence[Sample], method: Sequence[Sample]) -> Speedup:
        prompts = len({one.prompt_id for one in baseline or method})
        if not baseline or not method:
            return Speedup(prompts, None, None, None, None, None)
        decode = [_totals(arm, metrics.decode_per_question) for arm in (baseline, method)]
        whole = [_totals(arm, metrics.end_to_end_per_question) for arm in (baseline, method)]
        return Speedup(
            prompts,
            _defined(self._ratio, decode),
            _defined(self._ratio, whole),
            _defined(self._geometric, decode),
            _defined(self._geometric, whole),
            metrics.spec_bench_speedup(baseline, method),
        )

    def aa(self, baseline: Sequence[Sample], per_question: PerQuestion) -> AaCheck | None:
        return _defined(self._aa, _totals(baseline, per_question)) if baseline else None

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


def _defined(estimate: Callable[[Given], Number], given: Given) -> Number | None:
    """The estimate, or None where the samples do not determine it; every other error passes."""
    try:
        return estimate(given)
    except metrics.UndefinedError:
        return None


def _complete(samples: Sequence[Sample]) -> tuple[list[Sample], tuple[str, ...]]:
    """Samples of the prompts that are complete in every arm given, and the ids of the other prompts.

    Complete: every turn seen for the prompt holds a measurement in every repeat given and in every arm.
    """
    arms, repeats = {one.arm for one in samples}, {one.repeat for one in samples}
    prompts: dict[str, list[Sample]] = {}
    for one in samples:
        prompts.setdefault(one.prompt_id, []).append(one)
    complete = {
        prompt
        for prompt, found in prompts.items()
        if all(one.error is None for one in found)
        and len(found) == len({one.turn for one in found}) * len(repeats) * len(arms)
    }
    return [one for one in samples if one.prompt_id in complete], tuple(sorted(prompts.keys() - complete))


def _against_eager(eager: Sequence[Sample], fast: Sequence[Sample], draws: _Draws) -> Speedup | None:
    """`fast` against the eager arm on the prompts that are complete in both, in the eager arm's repeats."""
    if not eager:
        return None
    repeats = {one.repeat for one in eager}
    paired, _ = _complete([*eager, *(one for one in fast if one.repeat in repeats)])
    held = [one for one in paired if one.arm is not Arm.EAGER]
    return draws.speedup(_arm(paired, Arm.EAGER) if held else [], held)


def _arm(samples: Sequence[Sample], arm: Arm) -> list[Sample]:
    return [one for one in samples if one.arm is arm]


def _totals(samples: Sequence[Sample], per_question: PerQuestion) -> Totals:
    """One arm's work as arrays [Q, R]; prompts and repeats ascending, so that arms pair up row by row."""
    work = per_question(samples)
    prompts, repeats = sorted({key[0] for key in work}), sorted({key[1] for key in work})
    grid = [[work[prompt, repeat] for repeat in repeats] for prompt in prompts]
    return Totals(
        np.array([[one.seconds for one in row] for row in grid], dtype=np.float64),
        np.array([[one.tokens for one in row] for row in grid], dtype=np.float64),
    )


def _subtasks(compared: Sequence[Sample], draws: _Draws, *, is_given: bool) -> tuple[Subtask, ...]:
    """In order of appearance; empty for a task that has only one, and without a comparison."""
    if not _arm(compared, Arm.BASELINE) or not _arm(compared, Arm.METHOD):
        return ()
    names = list(dict.fromkeys(one.subtask for one in compared))
    rows = []
    for name in names if len(names) > 1 else []:
        part = [one for one in compared if one.subtask == name]
        method = _arm(part, Arm.METHOD)
        length = None if is_given else _defined(metrics.acceptance_length, method)
        rows.append(Subtask(name, draws.speedup(_arm(part, Arm.BASELINE), method), length))
    return tuple(rows)


def _probe(run: Run) -> Probe | None:
    """What the last start that measured anything probed."""
    found = [one["probe"] for one in run.attempts if "probe" in one]
    return Probe.of_record(found[-1]) if found else None


def _predicted(run: Run, probe: Probe | None, method: Sequence[Sample]) -> float | None:
    if probe is None:
        return None
    has_one_row = bool(run.labels.get("several tokens per row"))
    return _defined(partial(roofline.predict, probe.costs, several_tokens_per_row=has_one_row), method)


def _figures(arm: Sequence[Sample]) -> ArmFigures:
    return ArmFigures(
        _defined(metrics.decode_speed, arm),
        _defined(metrics.end_to_end_speed, arm),
        _defined(metrics.contention, arm),
        _defined(_unsteady, arm),
        resources(arm),
    )


def _unsteady(arm: Sequence[Sample]) -> int:
    if not arm:
        raise metrics.UndefinedError("no sample")
    return len(stats.outliers(stats.repeat_variation(_totals(arm, metrics.decode_per_question))))


def _acceptance(method: Sequence[Sample]) -> Acceptance:
    return Acceptance(
        _defined(metrics.acceptance_length, method),
        _defined(metrics.acceptance_length_request_mean, method),
        _defined(metrics.acceptance_length_steady, method),
        _defined(metrics.accepted_per_drafted, method),
        _defined(metrics.accepted_per_verified, method),
        _defined(metrics.acceptance_by_position, method) or (),
    )


def _failures(samples: Sequence[Sample]) -> dict[str, int]:
    failed = [one for one in samples if one.error is not None]
    reasons = Counter(f"{one.arm.value}: {((one.error or '').splitlines() or [''])[0]}" for one in failed)
    return dict(reasons.most_common())


def _eager_notes(against: Speedup | None, prompts: int) -> tuple[str, ...]:
    if against is None or against.prompts == prompts:
        return ()
    return (f"against eager: {against.prompts} of {prompts} prompts",)


def _notes(run: Run, prompts: int) -> tuple[str, ...]:
    shown = {
        key: value
        for key, value in run.labels.items()
        if key not in ("exactness", "pass_weights") and value not in (None, False, "")
    }
    notes = [key if value is True else f"{key}: {value}" for key, value in shown.items()]
    if prompts < FEW_PROMPTS:
        notes.append(f"only {prompts} prompts, so intervals are missing or too narrow")
    return tuple(notes)
