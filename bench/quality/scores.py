"""Were the answers any good? Shares of well-formed and right answers, from records alone.

``python -m bench.quality RUN_FOLDER`` prints them by subtask. Only prompts that carry checks count: the
built-in ones.

Definitions are those of `bench.tasks.checkers`. A sample that failed, or that was cut at the token budget, is
neither well-formed nor right.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError
from bench.records.model import Arm, Prompt, Sample
from bench.records.store import load_run, load_samples
from bench.tasks.checkers import is_right, is_well_formed
from bench.tasks.spec_bench import read_builtin


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
    found: dict[str, Quality] = {}
    for sample in samples:
        if sample.arm is arm and sample.repeat == 0 and sample.prompt_id in checks:
            judged = _judge(sample, checks[sample.prompt_id][sample.turn])
            found[sample.subtask] = found.get(sample.subtask, Quality()) + judged
    return found


def _judge(sample: Sample, check: Mapping[str, object]) -> Quality:
    is_usable = sample.error is None and is_well_formed(check, sample.text)
    verdict = is_right(check, sample.text) if sample.error is None else False
    return Quality(1, int(is_usable), int(verdict is not None), int(bool(verdict)))


def render(found: Mapping[str, Quality]) -> str:
    """A plain table, one row per subtask and one for all."""
    rows = [f"{'subtask':<18}{'answers':>8}{'well-formed':>13}{'checkable':>11}{'right':>8}"]
    total = sum(found.values(), Quality())
    for name, one in [*found.items(), ("all", total)]:
        right = f"{one.right / one.checkable:.1%}" if one.checkable else "-"
        rows.append(
            f"{name:<18}{one.answers:>8}{one.well_formed / one.answers:>13.1%}{one.checkable:>11}{right:>8}"
        )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the quality of a run's baseline and method; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run on the built-in prompts")
    folder = parser.parse_args(arguments).run
    try:
        load_run(folder)
        samples, prompts = load_samples(folder), read_builtin().prompts
        for arm in Arm:
            found = quality_by_subtask(samples, prompts, arm)
            if found:
                print(f"{arm.value}\n{render(found)}")  # noqa: T201 - the command's result
    except UserError as mistake:
        sys.stderr.write(f"error: {mistake.what}\nfix: {mistake.fix}\n")
        return 2
    return 0
