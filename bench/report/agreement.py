"""Two runs of several methods: has every method the same speed and the same rank in both?

Speeds are compared as `bench.report.compare` does it: each relative to its own baseline, question by
question. A rank is known as a range, from the methods that are faster for certain to those that are slower
for certain. Two runs agree on a method if the interval of its speed in B over that in A contains 1, at the
level that runs are checked with, and if its ranges of ranks overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.errors import UserError
from bench.metrics.arena import PLAIN, Arena, Contest, arena_figures
from bench.metrics.intervals import GATE_LEVEL, Interval
from bench.metrics.paired import rank_ranges
from bench.metrics.run_figures import speedup
from bench.records.model import Run, Sample
from bench.records.store import load_run
from bench.report.compare import compare_runs, comparison_text
from bench.report.stored_runs import StoredRun, folder_and_method, load_whole, part_of, read_run
from bench.show.layout import text_table


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a method stands in one run.

    Args:
        speedup: Over plain decoding.
        ranks: Its best and its worst possible rank among the methods of its kind, plain decoding included.
    """

    speedup: Interval
    ranks: tuple[int, int]

    @property
    def words(self) -> tuple[str, str]:
        """Speedup and ranks as cells of a table."""
        low, high = self.ranks
        return f"{self.speedup.estimate:.2f}x", f"{low}" if low == high else f"{low} to {high}"


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two runs say of one method.

    Args:
        method: Its label.
        first, second: Where it stands in run A and in run B.
        moved: Its speed in B over that in A.
    """

    method: str
    first: Standing
    second: Standing
    moved: Interval

    @property
    def differs_in(self) -> str:
        """``speed``, ``rank``, both, or nothing."""
        parts = [] if self.moved.contains(1.0) else ["speed"]
        is_apart = max(self.first.ranks[0], self.second.ranks[0]) > min(
            self.first.ranks[1], self.second.ranks[1]
        )
        return " and ".join([*parts, *(["rank"] if is_apart else [])])


@dataclass(frozen=True, slots=True)
class WholeRun:
    """A run of several methods with its samples and figures."""

    run: Run
    samples: Sequence[Sample]
    figures: Arena

    @classmethod
    def of(cls, run: Run, samples: Sequence[Sample]) -> Self:
        """With the figures that follow from the samples."""
        return cls(run, samples, arena_figures(run, samples))

    def part(self, label: str) -> StoredRun:
        """One of its methods as a run of its own."""
        return StoredRun(*part_of(self.run, self.samples, label), label=label)

    def standings(self) -> Mapping[str, Standing]:
        """Where every method with a speedup stands, among the lossless or among the lossy ones."""
        kinds = [kind for kind in (self.figures.lossless, self.figures.lossy) if kind is not None]
        return {label: standing for kind in kinds for label, standing in _of_contest(kind).items()}


def compared(first: Path, second: Path) -> str:
    """Two runs compared, as text: of several methods each, or of one.

    Raises:
        UserError: If a folder holds no run, if they were not measured alike or share no method or question,
            or if one is of several methods and the other of one.
    """
    if not (_is_arena(first) and _is_arena(second)):
        return comparison_text(compare_runs(read_run(first), read_run(second)))
    wholes = [WholeRun.of(*load_whole(folder_and_method(given)[0])) for given in (first, second)]
    doubts = [
        f"run {letter} is not ranked: {whole.figures.lossless.reason}"
        for letter, whole in zip("AB", wholes, strict=True)
        if whole.figures.lossless.reason
    ]
    return "\n".join([*doubts, agreement_text(agreements(*wholes))])


def agreements(first: WholeRun, second: WholeRun) -> list[Agreement]:
    """What two runs of several methods, A and B, say of the methods that both hold.

    Raises:
        UserError: As `compared`.
    """
    standings = first.standings(), second.standings()
    common = [label for label in standings[0] if label in standings[1]]
    if not common:
        names = " and ".join(", ".join(whole.run.methods) for whole in (first, second))
        raise UserError(f"no method was measured in both runs: {names}", "compare runs of the same methods")
    return [
        Agreement(label, standings[0][label], standings[1][label], _moved(label, first, second))
        for label in common
    ]


def agreement_text(found: Sequence[Agreement]) -> str:
    """A sentence, and a line per method that was measured in both runs."""
    apart = [agreement for agreement in found if agreement.differs_in]
    rows = [("method", "in A", "in B", "B over A", "ranks A", "ranks B", "differs in")]
    for agreement in found:
        (speed_a, rank_a), (speed_b, rank_b) = agreement.first.words, agreement.second.words
        moved, differs_in = speedup(agreement.moved), agreement.differs_in or "-"
        rows.append((agreement.method, speed_a, speed_b, moved, rank_a, rank_b, differs_in))
    return "\n".join([_sentence(len(found), [agreement.method for agreement in apart]), *text_table(rows)])


def _sentence(methods: int, apart: Sequence[str]) -> str:
    level = f"{GATE_LEVEL:.0%} intervals of B over A, and ranks as far as each run knows them"
    if not apart:
        return f"the two runs agree on all {methods} methods ({level})"
    return f"the two runs differ on {len(apart)} of {methods} methods: {', '.join(apart)} ({level})"


def _is_arena(given: Path) -> bool:
    """Whether a path names a whole run of several methods."""
    folder, label = folder_and_method(given)
    return not label and bool(load_run(folder).methods)


def _of_contest(contest: Contest) -> dict[str, Standing]:
    """Where the methods stand that have a speedup."""
    names = contest.costs.names
    if contest.pairs is None:
        raise UserError("a run has too few questions to compare methods", "let it finish, or ask more")
    ranks, plain = rank_ranges(contest.costs, names), names.index(PLAIN)
    return {
        name: Standing(contest.pairs.intervals[place][plain], ranks[name])
        for place, name in enumerate(names)
        if name != PLAIN and contest.pairs.intervals[place][plain].is_known
    }


def _moved(label: str, first: WholeRun, second: WholeRun) -> Interval:
    """The speed of a method in B over that in A."""
    return compare_runs(first.part(label), second.part(label), level=GATE_LEVEL).relative
