"""A stored run printed again, and the table that ends a sweep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.records.store import load_run, load_samples
from bench.report.__main__ import main
from bench.show.result import result_of
from bench.show.sweep import HEADER, store_rows, sweep_end
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


def test_a_sweep_ends_with_a_line_per_method_what_failed_and_the_command_for_its_report(
    tmp_path: Path,
) -> None:
    jobs = [tmp_path / str(number) for number in range(3)]
    runs = (stored(Plan("kangaroo")), stored_arena(ArenaPlan({"sam": 1.4, "medusa": 1.2})))
    for job, run in zip(jobs, runs, strict=False):
        job.mkdir()
        store_rows(job, result_of(run.run, run.samples, Path()).rows, Path("results"))
    (jobs[2] / ".hydra").mkdir(parents=True)
    (jobs[2] / ".hydra" / "overrides.yaml").write_text("- method=swift\n- task=qa\n")
    empty, header, *lines, failed, report = sweep_end(jobs, jobs[2:]).splitlines()
    assert (empty, header.split()) == ("", " ".join(HEADER).split())
    assert [line.split()[0] for line in lines] == ["kangaroo", "sam", "medusa"]
    assert failed == "failed: method=swift task=qa"
    assert report == "the report of all runs: python -m bench.report results"
    assert sweep_end(jobs[2:], jobs[2:]) == ""  # as for a plan
