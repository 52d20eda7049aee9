"""Any table of a run or a board by its name, for ``python -m bench.report table``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.errors import UserError, nearest
from bench.metrics.run_figures import number
from bench.records.model import Arm
from bench.report.arena_tables import pair_tables, session_tables, settings_table, wait_table
from bench.report.board import Ranked, Section, Unranked, sections
from bench.report.claims import claim_table, load_papers
from bench.report.document import Chapter
from bench.report.entries import entries
from bench.report.exchange.export import COUNTED, Layout, pooled_length, pooled_steps
from bench.report.exchange.rows import elsewhere_table, kept_rows
from bench.report.experts import expert_tables
from bench.report.input_length import input_length_table
from bench.report.left_out import left_out_tables
from bench.report.profiles import profile_chapters
from bench.report.routing import routing_chapters
from bench.report.stored_runs import read_runs, read_whole_run
from bench.report.tables import Table, section_tables, subtask_tables

OF_RESULTS = ("claims", "profiles", "routing", "elsewhere")
"""Tables that only a results folder may have."""
NAMES = (
    *(
        "ranking",
        "lossy",
        "unranked",
        "kinds",
        "lengths",
        "acceptance",
        "left_out",
        "pairwise",
        "sessions",
        "latency",
        "settings",
        "experts",
    ),
    *("input_length", *OF_RESULTS),
)
"""Tables that a run or a board may have."""

_MEASURED: Mapping[str, tuple[Callable[[Path], list[Chapter]], str]] = {
    "profiles": (profile_chapters, "profiles"),
    "routing": (routing_chapters, "guesses of experts"),
}
"""Chapters that hold a table of a results folder, and what the folder lacks without them."""


def named_tables(place: Path, name: str) -> list[tuple[str, Table]]:
    """Every table of that name with what its section is about, in the order of the board.

    Args:
        place: Folder of a run, ``RUN:METHOD``, or a results folder.
        name: One of `NAMES`.

    Raises:
        UserError: If the records cannot be read, or hold no such table.
    """
    if name not in NAMES:
        close = nearest(name, NAMES)
        fix = f"did you mean {close}?" if close else f"choose one of: {', '.join(NAMES)}"
        raise UserError(f"there is no table {name!r}", fix)
    if name in OF_RESULTS:
        return _of_results(place, name)
    board = _board(place)
    found = [
        (f"{section.title}; {section.questions}", table)
        for section in board
        for table in tables_of(section, name)
        if table.rows
    ]
    if not found:
        had = [each for each in sorted(NAMES) if each not in OF_RESULTS and _is_there(board, each)]
        raise UserError(f"{place} has no table {name!r}", f"it has: {', '.join(had)}")
    return found


def _of_results(place: Path, name: str) -> list[tuple[str, Table]]:
    """A table of a results folder that belongs to none of its sections."""
    if (place / "run.json").is_file():
        raise UserError(f"{place} is a run, and {name!r} belongs to a results folder", "name that folder")
    if name == "claims":
        board = _board(place)
        return [("", replace(claim_table(paper, board), name=name)) for paper in load_papers()]
    if name in _MEASURED:
        chapters, kind = _MEASURED[name]
        found = [
            (chapter.title, replace(table, name=name))
            for chapter in chapters(place)
            for part in chapter.parts
            for table in part.tables
        ]
        if not found:
            raise UserError(f"{place} holds no {kind}", f"measure some: python -m bench.{name.rstrip('s')}")
        return found
    rows = kept_rows(place)
    if not rows:
        fix = "import one: python -m bench.report import FILE --into FOLDER"
        raise UserError(f"{place} holds no results of other tools", fix)
    return [("", elsewhere_table(rows))]


def tables_of(section: Section, name: str) -> list[Table]:
    """The tables of that name of a section, also those that its page leaves out."""
    if name == "acceptance":
        return [acceptance_table(section)]
    if name == "input_length":
        return [input_length_table(section)]
    ranked = [*section_tables(section), *subtask_tables(section)]
    own = [*left_out_tables(section), *expert_tables(section)]
    own += [*pair_tables(section), *session_tables(section), wait_table(section), settings_table(section)]
    return [table for table in (*ranked, *own) if table.name == name]


def _is_there(board: Sequence[Section], name: str) -> bool:
    return any(table.rows for section in board for table in tables_of(section, name))


def acceptance_table(section: Section) -> Table:
    """One method a row: its acceptance length by every count that boards and engines print."""
    header = (
        *("method", "acceptance length", "mean of answers", "without prefill", "by Spec-Bench's lists"),
        *("by vLLM and AIPerf", "by SGLang", "accepted of drafted"),
    )
    rows: Sequence[Ranked | Unranked] = (*section.ranked, *section.unranked)
    cells = [_acceptance_cells(row) for row in rows if not row.entry.summary.is_cost_only]
    title = f"Acceptance by every count; vLLM: {COUNTED['vllm']}; SGLang: {COUNTED['sglang']}"
    return Table(title, header, tuple(cells), "acceptance")


def _acceptance_cells(row: Ranked | Unranked) -> tuple[str, ...]:
    figures = row.entry.summary.acceptance
    samples = [sample for sample in row.entry.samples if sample.arm is Arm.METHOD and sample.error is None]
    has_rounds = any(len(sample.rounds) for sample in samples)
    layouts: tuple[Layout, ...] = ("vllm", "sglang")
    theirs = [pooled_length(samples, layout) if has_rounds else None for layout in layouts]
    share = pooled_steps(samples).draft_acceptance_rate if has_rounds else None
    lengths = (figures.pooled, figures.request_mean, figures.steady, figures.spec_bench, *theirs)
    return (row.label, *map(number, lengths), number(share, ".1%"))


def _board(place: Path) -> list[Section]:
    """The sections of a results folder, or the one of a run."""
    if (place / "runs").is_dir() or (place / "published" / "runs").is_dir():
        return sections(entries(read_runs(place).runs))
    return sections(entries(read_whole_run(place)))
