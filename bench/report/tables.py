"""The board as tables of text, the same for Markdown and HTML, and its rows of CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.metrics.intervals import Interval
from bench.metrics.run_figures import Speedup, Summary, number, speedup
from bench.prove.certificates import is_proved_here
from bench.records.model import Verdict
from bench.report.board import Ranked, Section
from bench.report.entries import Entry

EAGER_COLUMN = "over an eager loop"
RANKING_HEADER: tuple[str, ...] = (
    "rank", "method", "decode speedup", "end-to-end speedup", "by Spec-Bench's formula", "tokens/s",
    "acceptance length", "output",
)  # fmt: skip
MEASURED_HEADER: tuple[str, ...] = ("peak memory", "energy", "draft parameters", EAGER_COLUMN)
"""Further columns of a ranking, each only where some method of the section has a figure."""
CSV_HEADER: tuple[str, ...] = (
    "section", "model", "device", "dtype", "sampling", "tier", "max_length", "draft_head",
    "questions_asked",
    "question_source", "method", "class", "rank", "subtask", "questions",
    "decode_speedup", "decode_low", "decode_high",
    "end_to_end_speedup", "end_to_end_low", "end_to_end_high", "spec_bench_speedup",
    "acceptance_length", "decode_tokens_per_s", "output", "peak_memory_bytes", "draft_parameters",
    "not_ranked_because", "runs",
)  # fmt: skip
CSV_EAGER_COLUMNS = (
    "against_eager_questions", "against_eager_decode", "against_eager_decode_low",
    "against_eager_decode_high", "against_eager_end_to_end", "against_eager_end_to_end_low",
    "against_eager_end_to_end_high",
)  # fmt: skip
"""Last, and only where some entry was measured against an eager loop, since no rank depends on it."""
ACCEPTANCE_TITLE = "Acceptance length by subtask, in tokens per target pass"


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table of text; the second column of a ranking and the first of the others names the row.

    `name` is what ``python -m bench.report table --table`` calls it; empty where it is not offered there.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    name: str = ""


def section_tables(section: Section) -> list[Table]:
    """The rankings of a section, then what has no rank."""
    return [*ranking_tables(section), *unranked_tables(section)]


def ranking_tables(section: Section) -> list[Table]:
    """The rankings: lossless methods, then lossy ones, with the columns that some method has a figure for."""
    further = {id(row): _measured(row.entry) for row in section.ranked}
    shown = [
        place
        for place in range(len(MEASURED_HEADER))
        if any(cells[place] != "-" for cells in further.values())
    ]
    header = (*RANKING_HEADER, *(MEASURED_HEADER[place] for place in shown))
    lossy = "Lossy methods: the output is not the model's own, so a speedup alone says nothing"
    return [
        Table(
            title,
            header,
            tuple((*ranking_row(row), *(further[id(row)][place] for place in shown)) for row in ranked),
            name,
        )
        for title, ranked, name in (
            ("Lossless methods", section.lossless, "ranking"),
            (lossy, section.lossy, "lossy"),
        )
        if ranked
    ]


def unranked_tables(section: Section) -> list[Table]:
    """What has no rank, and why; none where everything has one."""
    header = ("method", "reason", "decode speedup", "acceptance length", "output")
    rows = tuple((row.label, row.reason, *_unranked_cells(row.entry)) for row in section.unranked)
    return [Table("Not ranked", header, rows, "unranked")] if rows else []


def ranking_row(row: Ranked) -> tuple[str, ...]:
    """The cells of `RANKING_HEADER`."""
    summary = row.entry.summary
    return (
        str(row.rank),
        method_cell(row),
        speedup(summary.speedup.decode),
        speedup(summary.speedup.end_to_end),
        number(summary.speedup.spec_bench, unit="x"),
        number(summary.method.decode_tokens_per_s, ".1f"),
        number(summary.acceptance.pooled),
        output_cell(summary),
    )


def method_cell(row: Ranked) -> str:
    """The entry's label; for a method whose authors published no code it says so."""
    return f"{row.label} (re-implementation)" if is_reimplemented(row.entry) else row.label


def is_reimplemented(entry: Entry) -> bool:
    """Whether the method's authors published no code."""
    return bool(entry.summary.run.labels.get("independent re-implementation"))


def output_cell(summary: Summary) -> str:
    """A few words on the output, from the verdicts on the samples, never from the method's promise alone.

    ``lossy`` output is called so whatever its verdicts are, with the share of its answers that are right.
    ``exact`` counts samples that were compared and equal; ``proved`` needs a certificate of the source that
    was measured.
    """
    if summary.is_lossy:
        return _lossy_words(summary)
    counts = summary.verdicts
    checked = sum(count for verdict, count in counts.items() if verdict is not Verdict.UNCHECKED)
    if counts[Verdict.VIOLATION]:
        return f"VIOLATION in {counts[Verdict.VIOLATION]} of {checked}"
    if not checked:
        promise = str(summary.run.labels.get("exactness", "exactness not stated"))
        return summary.evidence or f"{promise}: declared, not checked"  # sampled answers are not compared
    ties, unchecked = counts[Verdict.TIE_EXPLAINED], counts[Verdict.UNCHECKED]
    parts = [f"exact {counts[Verdict.EXACT]} of {checked}"]
    parts += [f"{ties} explained by ties"] if ties else []
    parts += [f"{unchecked} unchecked"] if unchecked else []
    parts += ["proved"] if is_proved_here(summary.evidence) else []
    return ", ".join(parts)


def has_eager(section: Section) -> bool:
    """Whether some ranked entry was measured against an eager loop."""
    return any(_is_against_eager(row.entry) for row in section.ranked)


def csv_rows(board: Sequence[Section]) -> list[tuple[str, ...]]:
    """The header, then one row per entry and subtask, and one for all of its questions (``overall``).

    Numbers are bare.
    """
    is_eager = any(_is_against_eager(entry) for section in board for entry in section.entries)
    header = (*CSV_HEADER, *CSV_EAGER_COLUMNS) if is_eager else CSV_HEADER
    rows = [header]
    for section in board:
        for row in section.ranked:
            kind = "lossy" if row.entry.summary.is_lossy else "lossless"
            rows += _csv_entry(section, row.label, row.entry, (kind, str(row.rank), ""))
        for other in section.unranked:
            rows += _csv_entry(section, other.label, other.entry, ("not ranked", "", other.reason))
    return [row[: len(header)] for row in rows]


def _lossy_words(summary: Summary) -> str:
    figures = summary.lossy
    if figures is None or figures.method_answers.share is None or figures.baseline_answers.share is None:
        return "lossy"
    own, target = figures.method_answers.share, figures.baseline_answers.share
    return f"lossy: {own:.0%} of answers right, the target's {target:.0%}"


def subtask_tables(section: Section) -> list[Table]:
    """Speedup and acceptance length by kind of question; none where there is one kind only."""
    if len(section.subtasks) < 2 or not section.ranked:
        return []
    header = ("method", *section.subtasks)
    speedups = [(row.label, *_speedups(row.entry, section.subtasks)) for row in section.ranked]
    lengths = [(row.label, *_lengths(row.entry, section.subtasks)) for row in section.ranked]
    return [
        Table("Decode speedup by subtask, with 95 % intervals", header, tuple(speedups), "kinds"),
        Table(ACCEPTANCE_TITLE, header, tuple(lengths), "lengths"),
    ]


def _measured(entry: Entry) -> tuple[str, ...]:
    """The cells of `MEASURED_HEADER`."""
    memory, parameters = entry.peak_memory_bytes, entry.draft_parameters
    return (
        number(None if memory is None else memory / 2**30, ".2f", " GiB"),
        number(entry.summary.method.resources.joules_per_token, ".2f", " J/token"),
        number(None if parameters is None else parameters / 1e6, ".1f", " M"),
        _against_eager(entry),
    )


def _is_against_eager(entry: Entry) -> bool:
    against = entry.summary.against_eager
    return against is not None and against.prompts > 0


def _against_eager(entry: Entry) -> str:
    """The decode speedup; where the eager arm did not answer all questions, on how many."""
    against, asked = entry.summary.against_eager, entry.summary.speedup.prompts
    if against is None or against.decode is None:
        return "-"
    part = "" if against.prompts == asked else f" on {against.prompts} of {asked} questions"
    return f"{speedup(against.decode)}{part}"


def _speedups(entry: Entry, subtasks: Sequence[str]) -> list[str]:
    parts = entry.subtasks
    return [speedup(parts[name].speedup.decode) if name in parts else "-" for name in subtasks]


def _lengths(entry: Entry, subtasks: Sequence[str]) -> list[str]:
    parts = entry.subtasks
    return [number(parts[name].acceptance_length) if name in parts else "-" for name in subtasks]


def _unranked_cells(entry: Entry) -> tuple[str, ...]:
    summary = entry.summary
    return speedup(summary.speedup.decode), number(summary.acceptance.pooled), output_cell(summary)


def _csv_entry(
    section: Section, label: str, entry: Entry, place: tuple[str, str, str]
) -> list[tuple[str, ...]]:
    kind, rank, reason = place
    setting, summary = section.setting, entry.summary
    where = (
        *(section.anchor, setting.model, setting.device, setting.dtype, setting.sampling),
        *(setting.option("tier"), setting.option("max_length"), setting.option("draft_head") or "stored"),
        *(str(len(entry.asked)), setting.prompts),
    )
    runs = " ".join(stored.run.run_id for stored in entry.stored)
    parts = [("overall", summary.speedup, summary.acceptance.pooled)]
    parts += [(part.name, part.speedup, part.acceptance_length) for part in entry.subtasks.values()]
    return [
        (
            *(*where, label, kind, rank, name, str(ratio.prompts)),
            *(*_bounds(ratio.decode), *_bounds(ratio.end_to_end), _bare(ratio.spec_bench), _bare(length)),
            _bare(summary.method.decode_tokens_per_s if name == "overall" else None),
            *(output_cell(summary), _whole(entry.peak_memory_bytes), _whole(entry.draft_parameters)),
            *(reason, runs, *_csv_eager(summary.against_eager if name == "overall" else None)),
        )
        for name, ratio, length in parts
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
