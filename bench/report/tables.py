"""Cells of a leaderboard as text, the same for Markdown, HTML and CSV. An undefined number is ``-``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.metrics.intervals import Interval
from bench.metrics.run_figures import Speedup
from bench.report.badge import badge
from bench.report.board import Ranked, Section
from bench.report.entries import Entry

RANKING_HEADER: tuple[str, ...] = (
    "rank", "method", "decode speedup", "end to end", "Spec-Bench formula", "tokens/s", "acceptance length",
    "output", "peak memory", "draft parameters",
)  # fmt: skip
CSV_HEADER: tuple[str, ...] = (
    "model", "device", "dtype", "sampling", "questions_asked", "question_source", "method", "class",
    "rank", "subtask", "questions", "decode_speedup", "decode_low", "decode_high",
    "end_to_end_speedup", "end_to_end_low", "end_to_end_high", "spec_bench_speedup",
    "acceptance_length", "decode_tokens_per_s", "output", "peak_memory_bytes", "draft_parameters",
    "not_ranked_because", "runs",
)  # fmt: skip
EAGER_COLUMN = "against eager"
CSV_EAGER_COLUMNS = (
    "against_eager_questions", "against_eager_decode", "against_eager_decode_low",
    "against_eager_decode_high", "against_eager_end_to_end", "against_eager_end_to_end_low",
    "against_eager_end_to_end_high",
)  # fmt: skip
"""Both last, and only where some entry was measured against an eager loop: it is not what ranks."""


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table of text; the second column of a ranking and the first of the others names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def section_tables(section: Section) -> list[Table]:
    """The tables of a section that have rows, in reading order."""
    lossy = "Lossy methods: the output is not the model's own, so a speedup alone says nothing"
    header = (*RANKING_HEADER, EAGER_COLUMN) if has_eager(section) else RANKING_HEADER
    made = [
        Table(title, header, tuple(_ranking_row(one)[: len(header)] for one in ranked))
        for title, ranked in (("Lossless methods", section.lossless), (lossy, section.lossy))
    ]
    if len(section.subtasks) > 1:
        header = ("method", *section.subtasks)
        rows = tuple((one.label, *_speedups(one.entry, section.subtasks)) for one in section.ranked)
        made.append(Table("Decode speedup by subtask, with 95 % intervals", header, rows))
        rows = tuple((one.label, *_lengths(one.entry, section.subtasks)) for one in section.ranked)
        made.append(Table("Acceptance length by subtask, in tokens per target pass", header, rows))
    made.append(
        Table(
            "Not ranked",
            ("method", "reason", "decode speedup", "acceptance length", "output"),
            tuple((one.label, one.reason, *_apart_cells(one.entry)) for one in section.apart),
        )
    )
    return [table for table in made if table.rows]


def has_eager(section: Section) -> bool:
    """Whether some entry with a place was measured against an eager loop."""
    return any(_is_against_eager(one.entry) for one in section.ranked)


def csv_rows(found: Sequence[Section]) -> list[tuple[str, ...]]:
    """The header, then one row per entry and subtask, and one for all of its questions (``overall``).

    Numbers are bare.
    """
    is_eager = any(_is_against_eager(entry) for section in found for entry in section.entries)
    header = (*CSV_HEADER, *CSV_EAGER_COLUMNS) if is_eager else CSV_HEADER
    rows = [header]
    for section in found:
        for one in section.ranked:
            kind = "lossy" if one.entry.summary.is_lossy else "lossless"
            rows += _csv_entry(section, one.label, one.entry, (kind, str(one.rank), ""))
        for other in section.apart:
            rows += _csv_entry(section, other.label, other.entry, ("not ranked", "", other.reason))
    return [row[: len(header)] for row in rows]


def times(interval: Interval | None) -> str:
    """``2.86x [2.80, 2.92]``."""
    if interval is None:
        return "-"
    bounds = f" [{interval.low:.2f}, {interval.high:.2f}]" if interval.is_known else ""
    return f"{interval.estimate:.2f}x{bounds}"


def number(value: float | None, form: str = ".2f", unit: str = "") -> str:
    """A number with its unit, or ``-``."""
    return "-" if value is None else f"{value:{form}}{unit}"


def titled(one: Ranked) -> str:
    """The entry's label; of a method whose authors published no code, it says so."""
    is_reimplementation = bool(one.entry.summary.run.labels.get("independent re-implementation"))
    return f"{one.label} (re-implementation)" if is_reimplementation else one.label


def _is_against_eager(entry: Entry) -> bool:
    against = entry.summary.against_eager
    return against is not None and against.prompts > 0


def _against_eager(entry: Entry) -> str:
    """The decode speedup; where the eager arm did not answer all questions, on how many."""
    against, asked = entry.summary.against_eager, entry.summary.speedup.prompts
    if against is None or against.decode is None:
        return "-"
    part = "" if against.prompts == asked else f" on {against.prompts} of {asked} questions"
    return f"{times(against.decode)}{part}"


def _ranking_row(one: Ranked) -> tuple[str, ...]:
    summary = one.entry.summary
    memory, parameters = one.entry.peak_memory_bytes, one.entry.draft_parameters
    return (
        str(one.rank),
        titled(one),
        times(summary.speedup.decode),
        times(summary.speedup.end_to_end),
        number(summary.speedup.spec_bench, unit="x"),
        number(summary.method.decode_tokens_per_s, ".1f"),
        number(summary.acceptance.pooled),
        badge(summary),
        number(None if memory is None else memory / 2**30, ".2f", " GiB"),
        number(None if parameters is None else parameters / 1e6, ".1f", " M"),
        _against_eager(one.entry),
    )


def _speedups(entry: Entry, subtasks: Sequence[str]) -> list[str]:
    found = entry.subtasks
    return [times(found[name].speedup.decode) if name in found else "-" for name in subtasks]


def _lengths(entry: Entry, subtasks: Sequence[str]) -> list[str]:
    found = entry.subtasks
    return [number(found[name].acceptance_length) if name in found else "-" for name in subtasks]


def _apart_cells(entry: Entry) -> tuple[str, ...]:
    summary = entry.summary
    return times(summary.speedup.decode), number(summary.acceptance.pooled), badge(summary)


def _csv_entry(
    section: Section, label: str, entry: Entry, place: tuple[str, str, str]
) -> list[tuple[str, ...]]:
    kind, rank, reason = place
    setting, summary = section.setting, entry.summary
    where = (
        setting.model,
        setting.device,
        setting.dtype,
        setting.sampling,
        str(len(entry.asked)),
        setting.prompts,
    )
    runs = " ".join(one.run.run_id for one in entry.stored)
    parts = [("overall", summary.speedup, summary.acceptance.pooled)]
    parts += [(one.name, one.speedup, one.acceptance_length) for one in entry.subtasks.values()]
    return [
        (
            *(*where, label, kind, rank, name, str(speedup.prompts)),
            *(
                *_bounds(speedup.decode),
                *_bounds(speedup.end_to_end),
                _bare(speedup.spec_bench),
                _bare(length),
            ),
            _bare(summary.method.decode_tokens_per_s if name == "overall" else None),
            *(badge(summary), _whole(entry.peak_memory_bytes), _whole(entry.draft_parameters), reason, runs),
            *_csv_eager(summary.against_eager if name == "overall" else None),
        )
        for name, speedup, length in parts
    ]


def _csv_eager(against: Speedup | None) -> tuple[str, ...]:
    if against is None:
        return tuple("" for _ in CSV_EAGER_COLUMNS)
    return (str(against.prompts), *_bounds(against.decode), *_bounds(against.end_to_end))


def _bounds(interval: Interval | None) -> tuple[str, str, str]:
    if interval is None:
        return "", "", ""
    low, high = (interval.low, interval.high) if interval.is_known else (None, None)
    return _bare(interval.estimate), _bare(low), _bare(high)


def _bare(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _whole(value: int | None) -> str:
    return "" if value is None else str(value)
