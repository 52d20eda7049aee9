"""The charts of a page that are HTML and no drawing: a row per method, its speedup as a dot on a line.

They reflow on a phone, take the page's colours, and can be filtered; `bench.report.figures.overall` draws the
same for Markdown. Places are in percent of the width, since only the reader's screen knows how wide that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.metrics.intervals import Interval
from bench.report.board import Ranked, Section
from bench.report.tables import is_reimplemented

ALL = "all questions"
LOSSY_TITLE = "Lossy: the output is not the model's own, so a speedup alone says nothing"
UNRANKED_TITLE = "Not ranked: do not compare these speeds"
_ROOM = 1.5
"""The axis ends at this many times the largest speedup at most; longer intervals are cut."""
_STEPS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_MOST_TICKS = 7


LETTER_REM, NOTE_LETTERS = 0.58, 9
"""Width of a letter of a name, and letters of the note that a method is a re-implementation."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A speedup axis from 0.

    Args:
        top: Speedup at its right end.
        ticks: Place in percent and text of every tick.
    """

    top: float
    ticks: tuple[tuple[str, str], ...]

    def place(self, speedup: float) -> str:
        """Where a speedup lies, in percent; at the end if it lies beyond."""
        return f"{100 * min(max(speedup, 0.0), self.top) / self.top:.2f}"


@dataclass(frozen=True, slots=True)
class Mark:
    """One method in a chart.

    Args:
        rank: Its rank, where the chart ranks.
        label: Its name.
        note: What must stand beside the name.
        speed, bounds: Speedup and interval as text.
        dot, left, width: Places of the speedup and of its interval, in percent.
        state: ``faster`` or ``slower`` than plain decoding for certain, or ``unsure``.
        is_cut: Whether the interval reaches beyond the axis.
    """

    rank: str
    label: str
    note: str
    speed: str
    bounds: str
    dot: str
    left: str
    width: str
    state: str
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Methods whose output is of one kind: ``lossless`` or ``lossy``; or ``unranked`` ones."""

    output: str
    title: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """Speedups of all methods on one kind of question.

    Args:
        kind: The subtask, or `ALL`.
        place: Model, device and questions.
        groups: Lossless methods, then lossy ones.
        axis: Of the speedups.
    """

    kind: str
    place: str
    groups: tuple[Group, ...]
    axis: Axis

    def names_rem(self, note_letters: int = NOTE_LETTERS) -> float:
        """Room for the longest name with its note of so many letters, in units of the page's letters."""
        marks = [mark for group in self.groups for mark in group.marks]
        longest = max((len(mark.label) + note_letters * bool(mark.note) for mark in marks), default=0)
        return round(LETTER_REM * longest, 1)


def overall_chart(section: Section, place: str) -> Chart | None:
    """Every ranked method by rank, on all questions; where none has a rank, those without one.

    None where no speedup is known.
    """
    if section.ranked:
        return _chart(section, ALL, place, _axis(section.ranked, (ALL,)))
    rows = [Ranked(0, row.label, row.entry) for row in section.unranked]
    known = [row for row in rows if speed_of(row, ALL)]
    if not known:
        return None
    axis = _axis(known, (ALL,))
    marks = tuple(replace(mark, rank="", state="unsure") for row in known if (mark := _mark(row, ALL, axis)))
    return Chart(ALL, place, (Group("unranked", UNRANKED_TITLE, marks),), axis)


def kind_charts(section: Section, place: str) -> tuple[Chart, ...]:
    """A chart per kind of question, all on one axis; none where there is one kind only."""
    if not section.ranked or len(section.subtasks) < 2:
        return ()
    axis = _axis(section.ranked, section.subtasks)
    return tuple(_chart(section, kind, place, axis) for kind in section.subtasks)


def speed_of(row: Ranked, kind: str) -> Interval | None:
    """Decode speedup of an entry on one kind of question, or on `ALL`."""
    part = row.entry.summary if kind == ALL else row.entry.subtasks.get(kind)
    return part.speedup.decode if part is not None else None


def _chart(section: Section, kind: str, place: str, axis: Axis) -> Chart:
    groups = [
        Group(output, title, tuple(mark for row in rows if (mark := _mark(row, kind, axis))))
        for output, title, rows in (("lossless", "", section.lossless), ("lossy", LOSSY_TITLE, section.lossy))
    ]
    return Chart(kind, place, tuple(group for group in groups if group.marks), axis)


def _mark(row: Ranked, kind: str, axis: Axis) -> Mark | None:
    speed = speed_of(row, kind)
    if speed is None:
        return None
    low, high = speed.bar
    left, right = float(axis.place(low)), float(axis.place(high))
    is_sure = speed.is_known and not speed.contains(1.0)
    return Mark(
        rank=str(row.rank) if kind == ALL else "",
        label=row.label,
        note="re-implementation" if is_reimplemented(row.entry) else "",
        speed=f"{speed.estimate:.2f}x",
        bounds=f"{low:.2f} to {high:.2f}" if speed.is_known and high < 1000 else "no interval",
        dot=axis.place(speed.estimate),
        left=f"{left:.2f}",
        width=f"{right - left:.2f}",
        state=("faster" if speed.estimate > 1 else "slower") if is_sure else "unsure",
        is_cut=high > axis.top,
    )


def _axis(rows: Sequence[Ranked], kinds: Sequence[str]) -> Axis:
    known = [speed for row in rows for kind in kinds if (speed := speed_of(row, kind))]
    largest = max(speed.estimate for speed in known)
    highest = max((speed.high for speed in known if speed.is_known), default=largest)
    return make_axis(max(1.2, min(1.02 * highest, _ROOM * largest)))


def make_axis(top: float) -> Axis:
    """An axis up to `top` with a few round ticks."""
    step = next((step for step in _STEPS if top / step <= _MOST_TICKS), top)
    count = int(top / step)
    ticks: Sequence[float] = [step * number for number in range(count + 1)]
    return Axis(top, tuple((f"{100 * tick / top:.2f}", f"{tick:g}x") for tick in ticks))
