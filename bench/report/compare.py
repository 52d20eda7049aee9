"""Two runs side by side, question by question: the speed of run B over that of run A, and how sure it is.

Every ratio has this one direction: above 1, B is faster; below 1, A is. Only questions that both runs
answered count; how many others each of them asked is said.

Each run has its own baseline, interleaved with its method. So a method's time is taken relative to its
own baseline on the same question before the runs are compared: a machine that was slower during one run
slows its baseline as well and cancels out. How far the baselines differ is shown beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import UserError
from bench.metrics.counts import Work, decode_per_question
from bench.metrics.intervals import Costs, Interval
from bench.metrics.speedups import faster_by, faster_by_total
from bench.records.model import Arm, Sample
from bench.report.entries import setting_of
from bench.report.stored_runs import StoredRun
from bench.show.layout import text_table

_SAME = (
    "model",
    "model_weights",
    "device",
    "dtype",
    "sampling",
    "questions",
    "template",
    "runtime",
    "max_new_tokens",
    "history",
    "torch",
    "waiting",
)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same questions.

    Args:
        names: What to call them.
        questions: Questions that are complete in both.
        others: How many questions are complete in A only, and in B only.
        relative: How many times as fast B decodes as A, each relative to its own baseline: geometric mean
            over questions.
        raw: The same as a ratio of total times, without the baselines.
        baselines: How many times as fast B's baseline decodes as A's.
    """

    names: tuple[str, str]
    questions: int
    relative: Interval
    raw: Interval
    baselines: Interval
    others: tuple[int, int] = (0, 0)

    def sentence(self) -> str:
        """The result in one plain sentence, always as the speed of B over A's."""
        first, second = (f"{letter} ({name})" for letter, name in zip("AB", self.names, strict=True))
        factor, level = self.relative, self.relative.level
        bounds = f"{level:.0%} interval {factor.low:.2f} to {factor.high:.2f}"
        where = f"on the {self.questions} questions that both answered ({bounds})"
        speed = f"{second} decodes {_factor(factor)} as fast as {first} {where}"
        if not factor.is_known or factor.contains(1.0):
            return f"{speed}: they cannot be told apart."
        return f"{speed}: {second if factor.estimate > 1 else first} is faster."


def compare_runs(first: StoredRun, second: StoredRun, level: float = 0.95) -> Paired:
    """The speed of run B (`second`) over that of run A (`first`), with intervals at `level`.

    Repeats and sessions of a run count together: the runs were measured at different times, so theirs do not
    pair up. The intervals allow for other questions, not for other sessions.

    Raises:
        UserError: If they were not measured alike, share no complete question, or if one lacks an arm.
    """
    _check_alike(first, second)
    works = [_works(run, arm) for run in (first, second) for arm in (Arm.BASELINE, Arm.METHOD)]
    complete = [set(works[0]) & set(works[1]), set(works[2]) & set(works[3])]
    questions = sorted(complete[0] & complete[1])
    if not questions:
        raise UserError(
            f"the runs share no question that is complete in both: {len(complete[0])} in A, "
            f"{len(complete[1])} in B",
            "let both runs finish, with a task, task.limit and task.ids that overlap",
        )
    base_a, method_a, base_b, method_b = ([work[prompt] for prompt in questions] for work in works)
    relative = Costs.by_question({"A": _relative(method_a, base_a), "B": _relative(method_b, base_b)})
    return Paired(
        names=_names(first, second),
        questions=len(questions),
        relative=faster_by(relative, "B", "A", level),
        raw=faster_by_total(Costs.by_question({"A": method_a, "B": method_b}), "B", "A", level),
        baselines=faster_by_total(Costs.by_question({"A": base_a, "B": base_b}), "B", "A", level),
        others=(len(complete[0] - complete[1]), len(complete[1] - complete[0])),
    )


def comparison_text(paired: Paired) -> str:
    """The comparison as a sentence and three ratios of decode speeds, all of them B over A."""
    ratios = {
        "each relative to its own baseline": paired.relative,
        "baselines left out": paired.raw,
        "B's baseline over A's baseline": paired.baselines,
    }
    rows = [("speed of B over A (above 1: B is faster)", "ratio")]
    rows += [
        (f"  {name}", f"{_factor(ratio)} [{ratio.low:.3f}, {ratio.high:.3f}]")
        for name, ratio in ratios.items()
    ]
    notes = [] if paired.baselines.contains(1.0) else ["the machine was not equally fast during both runs"]
    if any(paired.others):
        only_a, only_b = paired.others
        notes.append(f"left out: {only_a} questions complete in A only, {only_b} in B only")
    return "\n".join([paired.sentence(), *text_table(rows), *notes])


def _check_alike(first: StoredRun, second: StoredRun) -> None:
    a, b = setting_of(first), setting_of(second)
    different = [name for name in _SAME if getattr(a, name) != getattr(b, name)]
    if different:
        values = "; ".join(f"{name} is {getattr(a, name)!r} and {getattr(b, name)!r}" for name in different)
        raise UserError(
            f"the runs were not measured alike: {values}", "compare runs that differ in the method only"
        )


def _works(stored: StoredRun, arm: Arm) -> dict[str, Work]:
    """Decode work by question, over all repeats; questions that failed in baseline or method are left out."""
    compared = [sample for sample in stored.samples if sample.arm is not Arm.EAGER]
    failed = {sample.prompt_id for sample in compared if sample.error is not None}
    samples = [sample for sample in compared if sample.arm is arm and sample.prompt_id not in failed]
    if not samples:
        raise UserError(
            f"{stored.run.run_id} holds no usable samples of the {arm.value}", "compare runs of methods"
        )
    return _by_question(samples)


def _by_question(samples: Sequence[Sample]) -> dict[str, Work]:
    totals: dict[str, Work] = {}
    for (prompt, _), work in decode_per_question(samples).items():
        done = totals.get(prompt, Work(0, 0.0))
        totals[prompt] = Work(done.tokens + work.tokens, done.seconds + work.seconds)
    return {prompt: work for prompt, work in totals.items() if work.tokens and work.seconds}


def _relative(method: Sequence[Work], baseline: Sequence[Work]) -> list[Work]:
    """One token of the method per question, its time in units of the baseline's seconds per token."""
    return [
        Work(1, (ours.seconds / ours.tokens) / (plain.seconds / plain.tokens))
        for ours, plain in zip(method, baseline, strict=True)
    ]


def _names(first: StoredRun, second: StoredRun) -> tuple[str, str]:
    if first.run.method != second.run.method:
        return first.run.method, second.run.method
    return first.run.run_id, second.run.run_id


def _factor(interval: Interval) -> str:
    return f"{interval.estimate:.3f}x"
