"""The leaderboard as files: one self-contained page, escaped text, the same bytes every time."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.report import build as build_module
from bench.report import tables
from bench.report.__main__ import main
from bench.report.build import Leaderboard, build, differences, write
from bench.report.stored_runs import read_runs
from tests.command import mistake_lines
from tests.harness import undrawn
from tests.report.boards import BOARD, SUBTASKS, Plan, digest, save, stored

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "br", "hr", "img", "link", "input"}
SMALL = tuple(replace(BOARD[place], subtasks=SUBTASKS[:2], questions=12, limit=24) for place in (0, 7, 9))


class Outline(HTMLParser):
    """Checks that tags nest, and collects what the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.references: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "srcset", "action"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


OLD = "vicuna_7b-0123abcd-speedup.svg"
"""A figure of a section that is gone."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    save(stored(SMALL[0]), root / "published")
    for plan in SMALL[1:]:
        save(stored(plan), root)
    return root


@pytest.fixture(scope="module")
def built(results: Path) -> Leaderboard:
    return build(results)


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    parser.close()
    assert not parser.open
    return parser


def test_the_page_parses_and_needs_nothing_from_elsewhere(built: Leaderboard) -> None:
    page = outline(built.texts["leaderboard.html"])
    assert {"table", "svg", "details"} <= page.names
    assert_needs_nothing_from_elsewhere(page, built, "")
    assert "@import" not in built.texts["leaderboard.html"]


def test_every_run_has_a_page_and_claims_have_a_file_of_their_own(built: Leaderboard) -> None:
    names = [name for name in built.texts if name.startswith("pages/")]
    runs = {stored.run.run_id for entry in built.entries for stored in entry.stored}
    assert {Path(name).stem for name in names} == runs
    for name in names:
        page = outline(built.texts[name])
        assert_needs_nothing_from_elsewhere(page, built, "pages/")
        for part in ("Latency", "Published claims", "Provenance", "Answers round by round"):
            assert f"<h2>{part}</h2>" in built.texts[name]
    assert "Published claims" not in built.texts["leaderboard.md"]
    assert built.texts["claims.md"].count("<details>") > 5
    assert_needs_nothing_from_elsewhere(outline(built.texts["claims.html"]), built, "")


def assert_needs_nothing_from_elsewhere(page: Outline, built: Leaderboard, folder: str) -> None:
    """The page of a folder refers to itself and to other pages of the board."""
    assert not page.names & {"link", "iframe", "img"}
    ids = set(page.ids)
    assert len(ids) == len(page.ids)
    for reference in page.references:
        is_inside = reference[:1] == "#" and reference[1:] in ids
        is_page = os.path.normpath(folder + reference) in built.texts
        assert is_inside or is_page or reference.startswith("data:image/png;base64,"), reference


def test_published_runs_and_own_ones_are_read(built: Leaderboard) -> None:
    assert {entry.method: entry.is_published for entry in built.entries} == {
        "kangaroo": True,
        "hamburger": False,
        "m2r2": False,
    }


def test_the_board_is_made_before_anything_that_explains_it(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def watch(module: ModuleType, name: str) -> None:
        function = getattr(module, name)

        def watched(*given: Any) -> Any:
            calls.append(name)
            return function(*given)

        monkeypatch.setattr(module, name, watched)

    watch(tables, "ranking_row")
    for name in ("section_chapter", "profile_chapters", "load_papers"):
        watch(build_module, name)
    with undrawn():
        build(results)
    assert calls[:3] == ["ranking_row", "ranking_row", "section_chapter"]  # the pages of runs come after
    assert calls.index("section_chapter") < calls.index("profile_chapters") < calls.index("load_papers")


def test_text_is_escaped_everywhere(built: Leaderboard) -> None:
    assert "CUDA &lt;full&gt;" in built.texts["leaderboard.html"]
    assert "CUDA &lt;full&gt;" in built.texts["leaderboard.md"]
    assert "<full>" not in built.texts["leaderboard.html"] + built.texts["leaderboard.md"]


def test_markdown_tables_keep_their_columns(built: Leaderboard) -> None:
    header, *rows = (line for line in built.texts["leaderboard.md"].splitlines() if line.startswith("| "))
    columns = header.count("|")
    assert columns == 10  # memory is known, parameters added for drafting are not
    assert any("kangaroo" in row and row.count("|") == columns for row in rows)


def test_csv_has_a_row_per_subtask_and_one_for_all(built: Leaderboard) -> None:
    rows = list(csv.DictReader(io.StringIO(built.texts["leaderboard.csv"])))
    assert [row["subtask"] for row in rows if row["method"] == "kangaroo"][:2] == ["overall", "mt_bench"]
    assert {row["class"] for row in rows} == {"lossless", "lossy", "not ranked"}
    assert next(row for row in rows if row["method"] == "m2r2")["not_ranked_because"].startswith(
        "2 samples failed"
    )


def test_another_process_with_another_hash_seed_gives_the_same_bytes(
    results: Path, built: Leaderboard
) -> None:
    code = f"from tests.report.boards import digest_of; print(digest_of({str(results)!r}))"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(built)


def test_a_changed_record_is_detected(tmp_path: Path, results: Path, built: Leaderboard) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    write(built, copy)
    with undrawn():  # drawings are not compared
        assert differences(build(copy), copy) == []
        record = next((copy / "published" / "runs").glob("*/samples.jsonl"))
        record.write_text(re.sub(r'"decode_s": [0-9.e-]+', '"decode_s": 0.9', record.read_text(), count=1))
        changed = differences(build(copy), copy)
        assert {"leaderboard.md", "leaderboard.html", "leaderboard.csv"} <= set(changed)
        assert [name for name in changed if name.startswith("pages/kangaroo-")]
        assert "claims.md" not in changed


def test_what_is_written_is_up_to_date_until_it_is_changed(tmp_path: Path, built: Leaderboard) -> None:
    figures = [f"figures/{name}" for name in sorted(built.pictures)]
    assert differences(built, tmp_path) == [*built.texts, *figures]
    write(built, tmp_path)
    assert differences(built, tmp_path) == []
    page = tmp_path / "leaderboard.html"
    page.write_text(re.sub(r"<svg.*?</svg>", "<svg>another drawing</svg>", page.read_text(), flags=re.DOTALL))
    assert differences(built, tmp_path) == []  # drawings are not compared
    (tmp_path / "leaderboard.csv").write_text("edited by hand")
    (tmp_path / "figures" / OLD).write_text("left over")
    assert differences(built, tmp_path) == ["leaderboard.csv", f"figures/{OLD}"]


def test_every_figure_file_is_shown_by_the_markdown_board(built: Leaderboard) -> None:
    shown = re.findall(r"\]\(figures/([^)]+)\)", built.texts["leaderboard.md"])
    assert sorted(shown) == sorted(built.pictures)


def test_only_our_own_figures_of_sections_that_are_gone_are_removed(
    tmp_path: Path, built: Leaderboard
) -> None:
    (tmp_path / "figures").mkdir()
    for name in (OLD, "holiday.png", "sketch-v2.svg"):
        (tmp_path / "figures" / name).write_bytes(b"")
    write(built, tmp_path)
    (tmp_path / "pages" / "gone-mt_bench-tiny-01234567.html").write_text("left over")
    (tmp_path / "pages" / "notes.html").write_text("mine")
    assert differences(built, tmp_path) == ["pages/gone-mt_bench-tiny-01234567.html"]
    write(built, tmp_path)
    pages = {f"pages/{path.name}" for path in (tmp_path / "pages").iterdir()}
    assert pages == {"pages/notes.html", *(name for name in built.texts if name.startswith("pages/"))}
    left = {path.name for path in (tmp_path / "figures").iterdir()}
    assert left == {*built.pictures, "holiday.png", "sketch-v2.svg"}


def test_a_damaged_run_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(stored(Plan("kangaroo")), tmp_path)
    damaged = save(stored(Plan("medusa")), tmp_path)
    (damaged / "run.json").write_text("[]")
    read = read_runs(tmp_path)
    assert [run.run.method for run in read.runs] == ["kangaroo"]
    assert list(read.unreadable) == [damaged]
    with undrawn():
        assert main([str(tmp_path)]) == 1
    assert mistake_lines(capsys.readouterr().err)[0].startswith(
        f"error: left out: {damaged / 'run.json'} is no run"
    )


def test_strict_and_check_set_the_exit_status(
    tmp_path: Path, built: Leaderboard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.report.build.build", lambda results, is_drawn: built)
    assert main([str(tmp_path), "--check"]) == 1
    error, fix = mistake_lines(capsys.readouterr().err)
    assert error.startswith("error: leaderboard.md, leaderboard.html")
    assert fix == f"fix: rebuild them: python -m bench.report {tmp_path}"
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path), "--check"]) == 0
    assert main([str(tmp_path), "--check", "--strict"]) == 1
    assert "2 samples failed" in capsys.readouterr().err


def test_no_runs_is_a_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    error, fix = mistake_lines(capsys.readouterr().err)
    assert "holds no runs" in error
    assert fix.startswith("fix: measure one first")
