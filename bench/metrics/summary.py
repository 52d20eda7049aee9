"""From the samples of one run to all of its figures, which `bench.metrics.run_figures` defines.

Only prompts that are complete in baseline and method enter times and speedups; the others are counted and
named. Verdicts, failures and acceptance come from every sample of the method, so that leaving a prompt out
hides nothing. Of the eager arm only its own speedup is computed: no other figure depends on it. A figure that
the samples do not determine is None, never 0.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from bench.metrics import counts as metrics
from bench.metrics import intervals as stats
from bench.metrics import roofline
from bench.metrics.counts import accepted_per_step, constructor_of
from bench.metrics.intervals import complete_prompts, finished_repeats
from bench.metrics.roofline import Probe
from bench.metrics.run_figures import (
    Acceptance,
    ArmFigures,
    Speedup,
    Subtask,
    Summary,
    lossy_figures,
    resources,
    search_cost,
    skipped_share,
)
from bench.metrics.speedups import Bootstrap, defined, of_arm, totals_of
from bench.records.model import Arm, Run, Sample, Verdict

FEW_PROMPTS = 10
"""Below this, a percentile bootstrap is known to be too narrow; a note says so."""
QUESTION_SOURCES = {
    "builtin": "built-in questions",
    "natural": "natural built-in questions",
    "official": "official Spec-Bench questions",
    "modified": "questions of a modified Spec-Bench file",
    "jsonl": "own questions",
}
"""Values of the label `prompts`, in words."""
_NOTES = {
    "partial": "a part of the task's questions",
    "tier": "target passes run in tier {}",
    "several tokens per row": "a verified row may yield several tokens",
    "draft parameters": "{} parameters added for drafting",
    "not applied": "generation_config.json sets {}, which no arm applies",
}
"""Labels of a run as words, where the bare label is not clear; ``{}`` becomes the label's value."""
_UNNOTED_LABELS = ("exactness", "pass_weights")
"""Labels that the table shows elsewhere."""


def summarise(
    run: Run,
    samples: Sequence[Sample],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    evidence: str | None = None,
) -> Summary:
    """All figures of one run, even if it is unfinished, has failures, or holds the baseline only.

    Args:
        run, samples: A run and its samples, of every arm.
        resamples: Bootstrap resamples of every interval.
        seed: Of the bootstrap.
        evidence: What `bench.prove.certificates.badge_of` says of the run's output.
    """
    eager = of_arm(samples, Arm.EAGER)
    samples = [sample for sample in samples if sample.arm is not Arm.EAGER]
    begun = len({sample.repeat for sample in samples})
    samples = finished_repeats(samples)
    compared, excluded = complete_prompts(samples)
    good = [sample for sample in samples if sample.error is None]
    method = of_arm(compared, Arm.METHOD)
    baseline = of_arm(compared, Arm.BASELINE, Arm.CONTROL)  # the control: as many more repeats of it
    all_method = of_arm(good, Arm.METHOD)
    bootstrap = Bootstrap(level, resamples, seed)
    speedup = bootstrap.speedup(baseline, method)
    probe = _probe(run)
    against_eager = _against_eager(eager, method if of_arm(samples, Arm.METHOD) else baseline, bootstrap)
    is_given = bool(run.labels.get("cost only"))  # such an acceptance must never be shown as a result
    return Summary(
        run=run,
        repeats=len({sample.repeat for sample in samples}),
        speedup=speedup,
        subtasks=_subtasks(compared, bootstrap, run if not is_given else None),
        baseline=_figures(baseline),
        method=_figures(method),
        acceptance=_acceptance([] if is_given else all_method, run),
        time_split=defined(metrics.time_split, method),
        aa_decode=bootstrap.aa(baseline, metrics.decode_per_question),
        aa_end_to_end=bootstrap.aa(baseline, metrics.end_to_end_per_question),
        verdicts=metrics.verdict_counts(all_method) if all_method else dict.fromkeys(Verdict, 0),
        first_divergences=metrics.first_divergences(all_method) if all_method else (),
        lossy=lossy_figures(run, samples),
        failures=_failures(samples),
        excluded=excluded,
        notes=(
            *_notes(run, speedup.prompts),
            *_eager_notes(against_eager, speedup.prompts),
            *_repeat_notes(samples, begun),
        ),
        search=defined(search_cost, method),
        skipped=defined(skipped_share, all_method),
        evidence=evidence,
        probe=probe,
        predicted=_predicted(run, probe, method),
        against_eager=against_eager,
        eager_failures=_failures(eager),
    )


def _against_eager(eager: Sequence[Sample], other: Sequence[Sample], bootstrap: Bootstrap) -> Speedup | None:
    """`other` over the eager arm, on the prompts that are complete in both, in the eager arm's repeats."""
    if not eager:
        return None
    repeats = {sample.repeat for sample in eager}
    paired, _ = complete_prompts([*eager, *(sample for sample in other if sample.repeat in repeats)])
    compared = [sample for sample in paired if sample.arm is not Arm.EAGER]
    return bootstrap.speedup(of_arm(paired, Arm.EAGER) if compared else [], compared)


def _subtasks(compared: Sequence[Sample], bootstrap: Bootstrap, run: Run | None) -> tuple[Subtask, ...]:
    """In order of appearance; empty for a task that has only one, and without a comparison.

    Args:
        compared: Samples of the prompts that count.
        bootstrap: Makes the speedups.
        run: Whose they are; None if its acceptance must not be shown.
    """
    if not of_arm(compared, Arm.BASELINE) or not of_arm(compared, Arm.METHOD):
        return ()
    names = list(dict.fromkeys(sample.subtask for sample in compared))
    rows = []
    for name in names if len(names) > 1 else []:
        part = [sample for sample in compared if sample.subtask == name]
        method = of_arm(part, Arm.METHOD)
        length = None if run is None else defined(metrics.acceptance_length, method)
        theirs = None if run is None else _spec_bench_length(method, run)
        rows.append(Subtask(name, bootstrap.speedup(of_arm(part, Arm.BASELINE), method), length, theirs))
    return tuple(rows)


def _probe(run: Run) -> Probe | None:
    """The probe of the last start that made one."""
    probes = [attempt["probe"] for attempt in run.attempts if "probe" in attempt]
    return Probe.of_record(probes[-1]) if probes else None


def _predicted(run: Run, probe: Probe | None, method: Sequence[Sample]) -> float | None:
    if probe is None:
        return None
    has_one_row = bool(run.labels.get("several tokens per row"))
    return defined(partial(roofline.predict, probe.costs, several_tokens_per_row=has_one_row), method)


def _figures(arm: Sequence[Sample]) -> ArmFigures:
    return ArmFigures(
        defined(metrics.decode_speed, arm),
        defined(metrics.end_to_end_speed, arm),
        defined(metrics.contention, arm),
        defined(_unsteady, arm),
        resources(arm),
    )


def _unsteady(arm: Sequence[Sample]) -> int:
    if not arm:
        raise metrics.UndefinedError("no sample")
    return len(stats.outliers(stats.repeat_variation(totals_of(arm, metrics.decode_per_question))))


def _spec_bench_length(method: Sequence[Sample], run: Run) -> float | None:
    return defined(partial(accepted_per_step, constructor=constructor_of(run)), method)


def _acceptance(method: Sequence[Sample], run: Run) -> Acceptance:
    return Acceptance(
        defined(metrics.acceptance_length, method),
        defined(metrics.acceptance_length_request_mean, method),
        defined(metrics.acceptance_length_steady, method),
        defined(metrics.accepted_per_drafted, method),
        defined(metrics.accepted_per_verified, method),
        defined(metrics.acceptance_by_position, method) or (),
        _spec_bench_length(method, run),
    )


def _failures(samples: Sequence[Sample]) -> dict[str, int]:
    failed = [
        (sample.arm, (sample.error.splitlines() or [""])[0]) for sample in samples if sample.error is not None
    ]
    reasons = Counter(f"{arm.value}: {first_line}" for arm, first_line in failed)
    return dict(reasons.most_common())


def _eager_notes(against: Speedup | None, prompts: int) -> tuple[str, ...]:
    if against is None or against.prompts == prompts:
        return ()
    return (f"speedup over an eager loop: {against.prompts} of {prompts} prompts",)


def _repeat_notes(counted: Sequence[Sample], begun: int) -> tuple[str, ...]:
    repeats = len({sample.repeat for sample in counted})
    if repeats == begun:
        return ()
    return (f"{begun - repeats} further repeats are not finished and do not count",)


def _notes(run: Run, prompts: int) -> tuple[str, ...]:
    """The run's labels in words, and a warning where the prompts are few."""
    notes = [
        _note(name, value)
        for name, value in run.labels.items()
        if name not in _UNNOTED_LABELS and value not in (None, False, "")
    ]
    if prompts < FEW_PROMPTS:
        notes.append(f"only {prompts} prompts, so intervals are missing or too narrow")
    return tuple(notes)


def _note(name: str, value: object) -> str:
    if name == "prompts":
        return QUESTION_SOURCES.get(str(value), f"prompts: {value}")
    return _NOTES.get(name, name if value is True else f"{name}: {{}}").format(value)
