"""Tables as LaTeX, CSV and Markdown, and every table of a run or board by its name."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.metrics.counts import acceptance_length
from bench.records.model import Arm
from bench.report.__main__ import main
from bench.report.exchange.choice import NAMES, named_tables
from bench.report.exchange.commands import _FORMS
from bench.report.exchange.typeset import FORMS, typeset
from bench.report.tables import Table
from tests.report.boards import ArenaPlan, Plan, save, stored, stored_arena

TABLE = Table(
    "Speed & 95 % intervals",
    ("method", "speedup", "wait", "output"),
    (("a_b", "1.50x [1.40, 1.60]", "12 / 15 / 31", "exact 3 of 3"), ("c", "-", "-", "5% off")),
    "ranking",
)


def test_csv_gives_every_number_a_column_of_its_own() -> None:
    rows = list(csv.reader(io.StringIO(typeset([("on tiny", TABLE)], "csv"))))
    assert rows == [
        [
            *("method", "speedup", "speedup low", "speedup high", "wait p50", "wait p90", "wait p99"),
            "output",
        ],
        ["a_b", "1.50", "1.40", "1.60", "12", "15", "31", "exact 3 of 3"],
        ["c", "", "", "", "", "", "", "5% off"],
    ]


def test_latex_escapes_text_and_prints_times() -> None:
    text = typeset([("on a_1", TABLE), ("on b", TABLE)], "latex")
    assert r"\caption{Speed \& 95 \% intervals. on a\_1}" in text
    assert r"a\_b & 1.50$\times$ [1.40, 1.60] & 12 / 15 / 31 & exact 3 of 3 \\" in text
    assert r"c & - & - & 5\% off \\" in text
    assert text.count(r"\toprule") == 2
    assert r"\label{tab:ranking}" in text
    assert r"\label{tab:ranking-2}" in text
    assert r"\begin{tabular}{lrll}" in text


def test_markdown_is_that_of_the_board() -> None:
    text = typeset([("on tiny", TABLE)], "markdown")
    assert text.startswith("**Speed & 95 % intervals**\n\non tiny\n\n| method | speedup | wait | output |\n")


def test_several_tables_in_one_csv_are_told_apart() -> None:
    text = typeset([("on a", TABLE), ("on b", TABLE)], "csv")
    assert text.startswith("# on a\nmethod,")
    assert "\n\n# on b\nmethod," in text


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    save(stored(Plan("kangaroo", questions=12, subtasks=("qa", "rag"), limit=24)), folder)
    save(stored_arena(ArenaPlan({"sam": 1.5, "hamburger": 1.3}, lossy=("hamburger",))), folder)
    return folder


def place(results: Path, start: str) -> Path:
    return next(path for path in (results / "runs").iterdir() if path.name.startswith(start))


@pytest.mark.parametrize("name", ["ranking", "kinds", "lengths", "acceptance", "latency", "settings"])
def test_tables_of_a_run_of_one_method(results: Path, name: str) -> None:
    ((section, table),) = named_tables(place(results, "kangaroo"), name)
    assert "vicuna_7b" in section
    assert any("kangaroo" in row for row in table.rows)


@pytest.mark.parametrize("name", ["ranking", "lossy", "acceptance", "pairwise", "latency", "settings"])
def test_tables_of_a_run_of_several(results: Path, name: str) -> None:
    ((_, table),) = named_tables(place(results, "arena"), name)
    assert any(("sam" if name != "lossy" else "hamburger") in row for row in table.rows)


def test_a_results_folder_has_a_table_per_section(results: Path) -> None:
    assert len(named_tables(results, "ranking")) == 2


def test_every_count_of_the_acceptance_length_stands_side_by_side(results: Path) -> None:
    ((_, table),) = named_tables(place(results, "kangaroo"), "acceptance")
    cells = dict(zip(table.header, table.rows[0], strict=True))
    run = stored(Plan("kangaroo", questions=12, subtasks=("qa", "rag"), limit=24))
    samples = [sample for sample in run.samples if sample.arm is Arm.METHOD]
    steps = sum(len(sample.rounds) for sample in samples)
    accepted = sum(int(sample.rounds.accepted.sum()) for sample in samples)
    assert cells["acceptance length"] == f"{acceptance_length(samples):.2f}"
    assert cells["by vLLM and AIPerf"] == f"{1 + accepted / steps:.2f}"
    assert cells["by SGLang"] == f"{sum(len(sample.ids) for sample in samples) / steps:.2f}"


def test_a_wrong_name_lists_what_there_is(results: Path) -> None:
    with pytest.raises(UserError, match="did you mean ranking"):
        named_tables(results, "rankings")
    with pytest.raises(UserError, match=f"choose one of: {', '.join(NAMES)}"):
        named_tables(results, "zzz")
    with pytest.raises(UserError, match="it has: acceptance, input_length, kinds"):
        named_tables(place(results, "kangaroo"), "pairwise")
    with pytest.raises(UserError, match="holds no results of other tools"):
        named_tables(results, "elsewhere")
    with pytest.raises(UserError, match="holds no profiles"):
        named_tables(results, "profiles")
    with pytest.raises(UserError, match="holds no guesses of experts"):
        named_tables(results, "routing")
    with pytest.raises(UserError, match="is a run, and 'claims' belongs to a results folder"):
        named_tables(place(results, "kangaroo"), "claims")


def test_what_papers_claim_is_a_table_per_paper(results: Path) -> None:
    found = named_tables(results, "claims")
    assert len(found) > 5
    assert {table.name for _, table in found} == {"claims"}
    assert typeset(found, "latex").count("bottomrule") == len(found)


@pytest.mark.parametrize("form", FORMS)
def test_the_command_prints_or_writes(results: Path, form: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["table", str(results), "--format", form]) == 0
    printed = capsys.readouterr().out
    assert "kangaroo" in printed
    out = tmp_path / "table.txt"
    assert main(["table", str(results), "--format", form, "--out", str(out)]) == 0
    assert out.read_text() == printed
    assert set(_FORMS) == set(FORMS)
