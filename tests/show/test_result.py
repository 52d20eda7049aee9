"""A stored run printed again, and the table that ends a sweep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.records.store import load_run, load_samples
from bench.report.__main__ import main
from bench.show.result import SWEEP_HEADER, result_of, sweep_table
from tests.report.boards import ArenaPlan, Plan, save, stored, stored_arena

ROOT = Path(__file__).resolve().parents[2]


def test_show_prints_the_stored_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(stored(Plan("kangaroo")), tmp_path)
    assert main(["show", str(folder)]) == 0
    expected = result_of(load_run(folder), load_samples(folder), tmp_path).table
    assert capsys.readouterr().out == f"{expected}\n{folder}\n"


def test_show_prints_a_run_of_several_methods_whole_or_one_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(stored_arena(ArenaPlan({"sam": 1.4, "medusa": 1.2})), tmp_path)
    assert main(["show", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("2 methods on spec_bench")
    assert main(["show", f"{folder}:sam"]) == 0
    assert capsys.readouterr().out.startswith("sam on spec_bench")
    assert main(["show", f"{folder}:nobody"]) == 2
    assert "choose one of: sam, medusa" in capsys.readouterr().err


def test_show_needs_no_torch_and_finds_a_run_by_its_id() -> None:
    code = (
        "import sys; from bench.report.__main__ import main; "
        "main(['show', 'kangaroo-mt_bench-tiny-a5d10ca0']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("kangaroo on mt_bench, model tiny")
    assert last == "False"


def test_a_sweep_ends_with_a_line_per_method_and_the_command_for_its_report() -> None:
    single, several = stored(Plan("kangaroo")), stored_arena(ArenaPlan({"sam": 1.4, "medusa": 1.2}))
    rows = [row for run in (single, several) for row in result_of(run.run, run.samples, Path()).rows]
    header, *lines, report = sweep_table(rows, ["results"]).splitlines()
    assert header.split() == " ".join(SWEEP_HEADER).split()
    assert [line.split()[0] for line in lines] == ["kangaroo", "sam", "medusa"]
    assert report == "the report of all runs: python -m bench.report results"
