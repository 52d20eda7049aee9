"""Shares of well-formed and of right answers by subtask, from records alone.

Only prompts that carry checks count. Of the shipped ones, that is the sources ``builtin`` and ``natural``,
both shares are known; of other tasks, such as ``math500`` or ``gpqa``, the right answers that the records
hold.

Definitions are those of `bench.tasks.checkers`. A sample that failed is neither well-formed nor right. An
answer that was cut at the token budget is not well-formed, except where its form is free.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cli import leave_closed_pipe, report_mistake, say
from bench.errors import UserError
from bench.metrics.run_figures import number
from bench.records.model import Arm, Prompt, Run, Sample
from bench.records.store import load_run, load_samples
from bench.show.layout import text_table
from bench.show.spelling import as_arguments
from bench.tasks.checkers import is_right, is_well_formed
from bench.tasks.spec_bench import read_builtin, read_natural
from bench.tasks.task import SourceName


@dataclass(frozen=True, slots=True)
class Quality:
    """Counts over answers; `checkable` of them have a known right answer."""

    answers: int = 0
    well_formed: int = 0
    checkable: int = 0
    right: int = 0

    def __add__(self, other: Quality) -> Quality:
        return Quality(
            self.answers + other.answers,
            self.well_formed + other.well_formed,
            self.checkable + other.checkable,
            self.right + other.right,
        )


def quality_by_subtask(samples: Iterable[Sample], prompts: Sequence[Prompt], arm: Arm) -> dict[str, Quality]:
    """Quality of one arm's first repeat by subtask; prompts without checks are left out."""
    checks = {prompt.id: prompt.checks for prompt in prompts if prompt.checks}
    by_subtask: dict[str, Quality] = {}
    for sample in samples:
        if sample.arm is arm and sample.repeat == 0 and sample.prompt_id in checks:
            judged = _judge(sample, checks[sample.prompt_id][sample.turn])
            by_subtask[sample.subtask] = by_subtask.get(sample.subtask, Quality()) + judged
    return by_subtask


def _judge(sample: Sample, check: Mapping[str, object]) -> Quality:
    is_usable = sample.error is None and is_well_formed(check, sample.text)
    verdict = is_right(check, sample.text) if sample.error is None else False
    return Quality(1, int(is_usable), int(verdict is not None), int(bool(verdict)))


def recorded_by_subtask(samples: Iterable[Sample], arm: Arm) -> dict[str, Quality]:
    """Right answers of one arm's first repeat by subtask, as the run judged them; answers without a check are
    left out, and nothing is said of their form.
    """
    by_subtask: dict[str, Quality] = {}
    for sample in samples:
        if sample.arm is arm and sample.repeat == 0 and sample.is_right is not None:
            judged = Quality(answers=1, checkable=1, right=int(sample.is_right))
            by_subtask[sample.subtask] = by_subtask.get(sample.subtask, Quality()) + judged
    return by_subtask


def quality_table(by_subtask: Mapping[str, Quality], *, has_form: bool = True) -> str:
    """A plain table, one row per subtask and one for all.

    Args:
        by_subtask: Counts by subtask.
        has_form: Whether `Quality.well_formed` is known.
    """
    total = sum(by_subtask.values(), Quality())
    rows = [("subtask", "answers", "well-formed", "checkable", "right of these")]
    for name, quality in [*by_subtask.items(), ("all", total)]:
        well_formed = f"{quality.well_formed / quality.answers:.1%}" if has_form else "-"
        right = number(quality.right / quality.checkable if quality.checkable else None, ".1%")
        rows.append((name, str(quality.answers), well_formed, str(quality.checkable), right))
    return "\n".join(text_table(rows, align="right"))


def quality_text(run: Run, samples: Sequence[Sample]) -> str:
    """A table for every arm that answered prompts with checks, under its name; empty if there is none."""
    shipped = {str(SourceName.NATURAL): read_natural, str(SourceName.BUILTIN): read_builtin}
    read = shipped.get(str(run.labels.get("prompts")))
    prompts = read().prompts if read else ()
    blocks = []
    for arm in Arm:
        found = quality_by_subtask(samples, prompts, arm) if read else recorded_by_subtask(samples, arm)
        if found:
            blocks.append(f"{arm.value}\n{quality_table(found, has_form=read is not None)}")
    return "\n".join(blocks)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the quality of a run's baseline and method; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("run", type=Path, help="folder of a run whose prompts carry checks")
    try:
        folder = parser.parse_args(as_arguments(parser, sys.argv[1:] if arguments is None else arguments)).run
        text = quality_text(load_run(folder), load_samples(folder))
        if not text:
            raise UserError(
                f"no prompt of {folder} carries a check", "ask shipped questions, math500, gpqa, ..."
            )
        say(text)
    except UserError as mistake:
        return report_mistake(mistake)
    except BrokenPipeError:
        return leave_closed_pipe()
    return 0
