"""Two runs side by side, question by question: which method decodes faster, and how sure that is.

Each run has its own baseline, decoded in turns with its method. So a method's time is taken relative to its
own baseline on the same question before the runs are compared: a machine that was slower during one run
slows its baseline as well and cancels out. How far the baselines differ is shown beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.errors import UserError
from bench.metrics.counts import Work, decode_per_question
from bench.metrics.intervals import Interval, Totals, geometric_speedup, paired_speedup
from bench.records.model import Arm, Sample
from bench.records.store import load_run, load_samples
from bench.report.entries import StoredRun, setting_of

_SAME = (
    "model",
    "model_weights",
    "device",
    "dtype",
    "sampling",
    "questions",
    "template",
    "max_new_tokens",
    "history",
)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same questions.

    Args:
        names: What to call them.
        questions: Questions that are complete in both.
        relative: How many times as fast B decodes as A, each relative to its own baseline: geometric mean
            over
            questions.
        raw: The same ratio of total times, baselines left out.
        baselines: How many times as fast B's baseline decodes as A's.
    """

    names: tuple[str, str]
    questions: int
    relative: Interval
    raw: Interval
    baselines: Interval

    def sentence(self) -> str:
        """The result in one plain sentence."""
        first, second = self.names
        interval = f"{self.relative.level:.0%} interval {self.relative.low:.2f} to {self.relative.high:.2f}"
        where = f"on the same {self.questions} questions"
        if not self.relative.is_known or self.relative.contains(1.0):
            ratio = f"the ratio is {_x(self.relative)} ({interval})"
            return f"{second} and {first} cannot be told apart {where}: {ratio}."
        if self.relative.estimate > 1:
            return f"{second} decodes {_x(self.relative)} as fast as {first} {where} ({interval})."
        factor = 1 / self.relative.estimate
        bounds = (
            f"{self.relative.level:.0%} interval {1 / self.relative.high:.2f} to {1 / self.relative.low:.2f}"
        )
        return f"{first} decodes {factor:.2f}x as fast as {second} {where} ({bounds})."


def load_stored(folder: Path) -> StoredRun:
    """A run by its folder.

    Raises:
        UserError: If it is no run, or holds no samples.
    """
    one = StoredRun(load_run(folder), tuple(load_samples(folder)))
    if not one.samples:
        raise UserError(f"{folder} holds no samples", "measure it first: the command that made it resumes")
    return one


def compare_runs(first: StoredRun, second: StoredRun, *, resamples: int = 10_000) -> Paired:
    """Hold run B (`second`) against run A (`first`).

    Raises:
        UserError: If they were not measured alike or on the same questions, or if one lacks an arm.
    """
    _check_alike(first, second)
    works = [_works(one, arm) for one in (first, second) for arm in (Arm.BASELINE, Arm.METHOD)]
    questions = sorted(set.intersection(*(set(one) for one in works)))
    if not questions:
        raise UserError("the runs share no question that is complete in both", "let both runs finish")
    base_a, method_a, base_b, method_b = (_totals(one, questions) for one in works)
    return Paired(
        names=_names(first, second),
        questions=len(questions),
        relative=geometric_speedup(
            _relative(method_a, base_a), _relative(method_b, base_b), resamples=resamples
        ),
        raw=paired_speedup(method_a, method_b, resamples=resamples),
        baselines=paired_speedup(base_a, base_b, resamples=resamples),
    )


def render(paired: Paired) -> str:
    """The comparison as four lines."""
    rows = (
        ("B over A, each relative to its own baseline", paired.relative),
        ("B over A, times as they are", paired.raw),
        ("baseline of B over baseline of A", paired.baselines),
    )
    lines = [f"{name:<46}{_x(one)} [{one.low:.3f}, {one.high:.3f}]" for name, one in rows]
    drift = [] if paired.baselines.contains(1.0) else ["the machine was not equally fast during both runs"]
    return "\n".join([paired.sentence(), *lines, *drift])


def _check_alike(first: StoredRun, second: StoredRun) -> None:
    one, other = setting_of(first), setting_of(second)
    different = [name for name in _SAME if getattr(one, name) != getattr(other, name)]
    if different:
        told = "; ".join(
            f"{name} is {getattr(one, name)!r} and {getattr(other, name)!r}" for name in different
        )
        raise UserError(
            f"the runs were not measured alike: {told}", "compare runs that differ in the method only"
        )
    asked, others = ({sample.prompt_id for sample in run.samples} for run in (first, second))
    if asked != others:
        raise UserError(
            f"the runs asked different questions: {len(asked - others)} only in A, {len(others - asked)} "
            f"only in B, {len(asked & others)} in both",
            "measure both with the same task, task.limit and task.ids",
        )


def _works(stored: StoredRun, arm: Arm) -> dict[str, Work]:
    """Decode work by question, over all repeats; questions that failed in either of both arms are out."""
    compared = [one for one in stored.samples if one.arm is not Arm.EAGER]
    failed = {one.prompt_id for one in compared if one.error is not None}
    samples = [one for one in compared if one.arm is arm and one.prompt_id not in failed]
    if not samples:
        raise UserError(
            f"{stored.run.run_id} holds no usable samples of the {arm.value}", "compare runs of methods"
        )
    return _by_question(samples)


def _by_question(samples: Sequence[Sample]) -> dict[str, Work]:
    found: dict[str, Work] = {}
    for (prompt, _), work in decode_per_question(samples).items():
        done = found.get(prompt, Work(0, 0.0))
        found[prompt] = Work(done.tokens + work.tokens, done.seconds + work.seconds)
    return {prompt: work for prompt, work in found.items() if work.tokens and work.seconds}


def _totals(works: Mapping[str, Work], questions: Sequence[str]) -> Totals:
    return Totals(
        np.array([works[one].seconds for one in questions], dtype=np.float64),
        np.array([works[one].tokens for one in questions], dtype=np.float64),
    )


def _relative(method: Totals, baseline: Totals) -> Totals:
    """The method's seconds per token in units of its baseline's, per question."""
    cost = (method.seconds / method.tokens) / (baseline.seconds / baseline.tokens)
    return Totals(cost, np.ones_like(cost))


def _names(first: StoredRun, second: StoredRun) -> tuple[str, str]:
    if first.run.method != second.run.method:
        return first.run.method, second.run.method
    return first.run.run_id, second.run.run_id


def _x(interval: Interval) -> str:
    return f"{interval.estimate:.3f}x"
