"""``bench.report input-length``: a table and a figure of a stored run, of one method or of several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.report.__main__ import main
from bench.report.board import Section, sections
from bench.report.entries import entries
from bench.report.exchange.choice import named_tables
from bench.report.input_length import input_length_frame, input_length_picture, input_length_table
from bench.report.stored_runs import read_whole_run
from bench.report.style import svg
from tests.report.boards import ArenaPlan, Plan, save, stored, stored_arena


def lengthened(run: Any) -> Any:
    """The run with prompts of 60 and, every second question, of 3000 tokens."""
    samples = tuple(
        replace(sample, prompt_tokens=60 + 2940 * (int(sample.prompt_id) % 2)) for sample in run.samples
    )
    return replace(run, samples=samples)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = Plan("kangaroo", questions=24, subtasks=("qa",), limit=24)
    return save(lengthened(stored(plan)), tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = ArenaPlan({"sam": 1.5, "del": 1.2}, questions=24)
    return save(lengthened(stored_arena(plan)), tmp_path_factory.mktemp("several"))


def section(folder: Path) -> Section:
    (only,) = sections(entries(read_whole_run(folder)))
    return only


def test_a_row_per_range(single: Path, capsys: Any) -> None:
    assert main(["input-length", str(single)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["prompt tokens", "under 2048", "2048 and more"]


def test_edges_of_ones_own(single: Path, capsys: Any) -> None:
    assert main(["input-length", str(single), "--edges", "1024,4096"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["under 1024", "1024 to 4095"]


def test_methods_of_a_run_of_several_stand_below_each_other(several: Path) -> None:
    table = input_length_table(section(several), [1024])
    assert [row[:2] for row in table.rows] == [
        ("under 1024", "sam"), ("under 1024", "del"), ("1024 and more", "sam"), ("1024 and more", "del"),
    ]  # fmt: skip
    assert {row[2] for row in table.rows} == {"12"}


def test_the_figure_shows_every_method_at_the_median_length(several: Path) -> None:
    frame = input_length_frame(section(several), [1024])
    assert frame["tokens"].tolist() == [60, 3000, 60, 3000]
    assert list(frame["method"].cat.categories) == ["sam", "del"]
    picture = input_length_picture(section(several))
    drawn = svg(picture.figure, "x")
    assert "prompt length (tokens)" in drawn
    assert "sam" in drawn


@pytest.mark.parametrize("name", ["lengths.png", "lengths.svg"])
def test_the_command_draws(several: Path, tmp_path: Path, name: str) -> None:
    assert main(["input-length", str(several), "--figure", str(tmp_path / name)]) == 0
    assert (tmp_path / name).stat().st_size > 1000


def test_it_is_a_table_that_can_be_typeset(single: Path) -> None:
    ((_, table),) = named_tables(single, "input_length")
    assert len(table.rows) == 2


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--edges", "4096,1024"], "--edges must be ascending"),
        (["--edges", "1k"], "--edges must be ascending"),
        (["--edges", "0"], "--edges must be ascending"),
        (["--figure", "x.pdf"], "must end in .png or .svg"),
        (["--figure", "/nowhere/x.png"], "cannot be written"),
    ],
)
def test_mistakes(single: Path, arguments: list[str], what: str, capsys: Any) -> None:
    assert main(["input-length", str(single), *arguments]) == 2
    assert what in capsys.readouterr().err
