"""Right answers of tasks that are not shipped, from what their records hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.quality.scores import main, quality_text
from bench.report.stored_runs import StoredRun
from tests.report.boards import Plan, save, stored


def judged(source: str = "jsonl") -> StoredRun:
    """A run on questions of one's own, every second of which both arms answered right."""
    made = stored(Plan("kangaroo", subtasks=("qa",), questions=4, labels={"prompts": source}))
    samples = [replace(sample, is_right=int(sample.prompt_id) % 2 == 0) for sample in made.samples]
    return replace(made, samples=tuple(samples))


def test_the_share_of_right_answers_by_arm() -> None:
    made = judged()
    lines = quality_text(made.run, made.samples).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "baseline",
        "subtask  answers  well-formed  checkable  right of these",
        "qa             4            -          4           50.0%",
        "all            4            -          4           50.0%",
        "method",
        "subtask  answers  well-formed  checkable  right of these",
        "qa             4            -          4           50.0%",
        "all            4            -          4           50.0%",
    ]


def test_the_command_prints_it_and_refuses_a_run_without_checks(tmp_path: Path, capsys: Any) -> None:
    assert main([str(save(judged(), tmp_path / "checked"))]) == 0
    assert "50.0%" in capsys.readouterr().out
    plain = stored(Plan("kangaroo", subtasks=("qa",), questions=2))
    assert main([str(save(plain, tmp_path / "plain"))]) == 2
    assert "carries a check" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["official", "published"])
def test_any_source_that_is_not_shipped_counts(source: str) -> None:
    made = judged(source)
    assert "50.0%" in quality_text(made.run, made.samples)
