"""The table of all runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.report.__main__ import main
from bench.runner import execute
from tests.harness import save_prompts, save_random_model, settings_for


def test_every_run_is_a_row_rebuilt_from_its_records(
    tmp_path: Path, results_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_random_model(tmp_path / "model")
    prompts = save_prompts(tmp_path / "prompts.jsonl", ["Tell me a story."], ["What is the capital?"])
    run = execute(settings_for(model, prompts, results_dir)).run_dir.name
    alone = execute(settings_for(model, prompts, results_dir, method="autoregressive")).run_dir.name
    assert main([str(results_dir)]) == 0
    header, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert "decode speedup" in header
    assert {row.split(" | ")[0].strip("| ") for row in rows} == {run, alone}
    assert "4 exact" in next(row for row in rows if run in row)


def test_no_runs_is_a_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no runs" in capsys.readouterr().err
