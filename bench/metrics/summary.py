"""From the samples of one run to all of its figures, which `bench.metrics.run_figures` defines.

Only prompts that are complete in baseline and method enter times and speedups; the others are counted and
named. Verdicts, failures and acceptance come from every sample of the method, so that leaving a prompt out
hides nothing. Of the eager arm only its own speedup is computed: no other figure depends on it. A figure that
the samples do not determine is None, never 0.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np

from bench.metrics import counts as metrics
from bench.metrics import roofline
from bench.metrics.counts import accepted_per_step, constructor_of
from bench.metrics.experts import ExpertFigures, expert_figures
from bench.metrics.intervals import Costs, Floats
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
from bench.metrics.speedups import baseline_check, costs_of, defined, of_arm, speedup
from bench.records.model import Arm, Run, Sample, Verdict

LEAST_REPEATS = 2
"""Repeats without which there is no A/A control."""
UNSTEADY = 0.05
"""A question whose variation over repeats exceeds this share is counted as unsteady."""
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
    "chat": "prompts with {}",
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
    evidence: str | None = None,
) -> Summary:
    """All figures of one run, even if it is unfinished, has failures, or holds the baseline only.

    Args:
        run, samples: A run and its samples, of every arm.
        level: Confidence level of the intervals.
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
    ratios = speedup(baseline, method, level)
    against_eager = _against_eager(eager, method if of_arm(samples, Arm.METHOD) else baseline, level)
    is_given = bool(run.labels.get("cost only"))  # such an acceptance must never be shown as a result
    return Summary(
        run=run,
        repeats=len({sample.repeat for sample in samples}),
        speedup=ratios,
        subtasks=_subtasks(compared, level, run if not is_given else None),
        baseline=_figures(baseline),
        method=_figures(method),
        acceptance=_acceptance([] if is_given else all_method, run),
        time_split=defined(metrics.time_split, method),
        aa_decode=baseline_check(baseline),
        aa_end_to_end=baseline_check(baseline, metrics.end_to_end_work),
        verdicts=metrics.verdict_counts(all_method) if all_method else dict.fromkeys(Verdict, 0),
        first_divergences=metrics.first_divergences(all_method) if all_method else (),
        lossy=lossy_figures(run, samples),
        failures=_failures(samples),
        excluded=excluded,
        notes=(
            *_notes(run),
            *_eager_notes(against_eager, ratios.prompts),
            *_repeat_notes(samples, begun),
        ),
        search=defined(search_cost, method),
        experts=_experts(method),
        skipped=defined(skipped_share, all_method),
        evidence=evidence,
        against_eager=against_eager,
        eager_failures=_failures(eager),
        compared=method,
    )


def predicted(summary: Summary) -> float | None:
    """Decode speedup that the run's probe predicts for the method's rounds; None without a probe."""
    probe = Probe.of_run(summary.run)
    if probe is None:
        return None
    has_one_row = bool(summary.run.labels.get("several tokens per row"))
    estimate = partial(roofline.predict, probe.costs, several_tokens_per_row=has_one_row)
    return defined(estimate, summary.compared)


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

    A complete run whose repeats or sessions are raised is extended prompt by prompt. Until that has ended,
    what it had before counts: the most repeats that every prompt has in full, at least two, or one where the
    baseline has a control. Without such a number, as in the first start of a run, all samples count.
    """
    least = 1 if any(sample.arm is Arm.CONTROL for sample in samples) else LEAST_REPEATS
    cells = {(sample.prompt_id, sample.turn, sample.arm) for sample in samples}
    held = Counter(sample.repeat for sample in samples)
    finished = 0
    while held[finished] == len(cells) and cells:
        finished += 1
    if finished < least or finished == len(held):
        return samples
    return [sample for sample in samples if sample.repeat < finished]


def repeat_variation(costs: Costs, name: str) -> Floats:
    """Coefficient of variation over all repeats of each question's seconds per token, shape [Q].

    Sample standard deviation (``R - 1``) over mean; NaN for a question with a repeat without tokens or
    seconds.

    Raises:
        UndefinedError: If there are fewer than two repeats.
    """
    per_token = np.exp(costs.logs(name)).reshape(costs.seconds.shape[1], -1)  # [Q, S x R]
    if per_token.shape[1] < LEAST_REPEATS:
        raise metrics.UndefinedError("variation over repeats needs at least 2 repeats")
    return np.asarray(per_token.std(axis=1, ddof=1) / per_token.mean(axis=1), dtype=np.float64)


def _against_eager(eager: Sequence[Sample], other: Sequence[Sample], level: float) -> Speedup | None:
    """`other` over the eager arm, on the prompts that are complete in both, in the eager arm's repeats."""
    if not eager:
        return None
    repeats = {sample.repeat for sample in eager}
    paired, _ = complete_prompts([*eager, *(sample for sample in other if sample.repeat in repeats)])
    compared = [sample for sample in paired if sample.arm is not Arm.EAGER]
    return speedup(of_arm(paired, Arm.EAGER) if compared else [], compared, level)


def _subtasks(compared: Sequence[Sample], level: float, run: Run | None) -> tuple[Subtask, ...]:
    """In order of appearance; empty for a task that has only one, and without a comparison.

    Args:
        compared: Samples of the prompts that count.
        level: Confidence level of the intervals.
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
        rows.append(Subtask(name, speedup(of_arm(part, Arm.BASELINE), method, level), length, theirs))
    return tuple(rows)


def _experts(method: Sequence[Sample]) -> ExpertFigures | None:
    is_loading = any("experts_needed" in sample.counts for sample in method)
    return defined(expert_figures, method) if is_loading else None


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
    return int((repeat_variation(costs_of({"arm": arm}), "arm") > UNSTEADY).sum())


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


def _notes(run: Run) -> tuple[str, ...]:
    """The run's labels in words."""
    return tuple(
        _note(name, value)
        for name, value in run.labels.items()
        if name not in _UNNOTED_LABELS and value not in (None, False, "")
    )


def _note(name: str, value: object) -> str:
    if name == "prompts":
        return QUESTION_SOURCES.get(str(value), f"prompts: {value}")
    return _NOTES.get(name, name if value is True else f"{name}: {{}}").format(value)
