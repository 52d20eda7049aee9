"""The column "over an eager loop": there where it was measured, nowhere else, and no rank depends on it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from bench.records.model import Arm, Sample
from bench.report.answers import write_answers
from bench.report.board import Section, sections
from bench.report.build import build, write
from bench.report.compare import compare_runs
from bench.report.document import EAGER_NOTE, section_chapter
from bench.report.entries import entries
from bench.report.stored_runs import StoredRun
from bench.report.tables import CSV_HEADER, csv_rows, section_tables
from tests.harness import undrawn
from tests.report.boards import Plan, save, stored

KANGAROO, MEDUSA = Plan("kangaroo", 2.0, questions=3, limit=18), Plan("medusa", 1.5, questions=3, limit=18)


def with_eager(run: StoredRun, failed: int = 0) -> StoredRun:
    """The run with a loop half as fast as its baseline in repeat 0, which fails on the first questions."""
    slow = [_eager(sample) for sample in run.samples if sample.arm is Arm.BASELINE and sample.repeat == 0]
    broken = [
        Sample(sample.prompt_id, sample.subtask, sample.turn, 0, Arm.EAGER, 2, error="OutOfMemoryError")
        for sample in slow[:failed]
    ]
    return replace(run, samples=(*run.samples, *broken, *slow[failed:]))


def _eager(sample: Sample) -> Sample:
    assert sample.timing is not None
    timing = replace(sample.timing, decode_s=2 * sample.timing.decode_s)
    return replace(sample, arm=Arm.EAGER, order=2, timing=timing)


def section(*runs: StoredRun) -> Section:
    (board_section,) = sections(entries(runs))
    return board_section


def test_the_column_is_last_and_holds_a_dash_where_it_was_not_measured() -> None:
    board_section = section(with_eager(stored(KANGAROO)), stored(MEDUSA))
    table = section_tables(board_section)[0]
    assert table.header[-1] == "over an eager loop"
    cells = {row[1]: row[-1] for row in table.rows}
    assert cells["medusa"] == "-"
    speedup = board_section.ranked[0].entry.summary.speedup.decode
    assert speedup is not None
    assert float(cells["kangaroo"].split("x")[0]) == pytest.approx(2 * speedup.estimate, rel=0.02)
    assert EAGER_NOTE in section_chapter(board_section, ()).remarks


def test_without_the_arm_there_is_neither_column_nor_remark() -> None:
    board_section = section(stored(KANGAROO), stored(MEDUSA))
    assert all("over an eager loop" not in table.header for table in section_tables(board_section))
    assert EAGER_NOTE not in section_chapter(board_section, ()).remarks
    assert csv_rows([board_section])[0] == CSV_HEADER


def test_failures_of_the_arm_take_no_rank_and_are_counted_in_the_cell() -> None:
    board_section = section(with_eager(stored(KANGAROO), failed=2))
    assert [row.label for row in board_section.lossless] == ["kangaroo"]
    assert section_tables(board_section)[0].rows[0][-1].endswith("on 16 of 18 questions")


def test_an_arm_that_always_failed_has_no_column() -> None:
    board_section = section(with_eager(stored(KANGAROO), failed=18))
    assert "over an eager loop" not in section_tables(board_section)[0].header
    assert csv_rows([board_section])[0] == CSV_HEADER


def test_every_file_of_the_leaderboard_holds_it_and_failures_are_counted(tmp_path: Path) -> None:
    save(with_eager(stored(KANGAROO), failed=2), tmp_path)
    with undrawn():
        board = build(tmp_path)
    assert board.failures == 2
    write(board, tmp_path)
    assert all(
        "over an eager loop" in (tmp_path / f"leaderboard.{kind}").read_text() for kind in ("md", "html")
    )
    with (tmp_path / "leaderboard.csv").open(encoding="utf-8") as file:
        overall, *parts = csv.DictReader(file)
    assert (overall["subtask"], overall["against_eager_questions"]) == ("overall", "16")
    assert float(overall["against_eager_decode_low"]) <= float(overall["against_eager_decode"])
    assert {part["against_eager_decode"] for part in parts} == {""}


def test_a_comparison_of_runs_and_an_export_do_without_the_arm(tmp_path: Path) -> None:
    plain, other = stored(KANGAROO), stored(MEDUSA)
    assert compare_runs(with_eager(plain, failed=2), other) == compare_runs(plain, other)
    paths = write_answers(with_eager(plain, failed=2), tmp_path)
    assert {path.name for path in paths} == {"vanilla.jsonl", "kangaroo.jsonl"}
    assert all(len(path.read_text().splitlines()) == 18 for path in paths)
