"""``bench.report model-sizes``: methods side by side over runs of models of several sizes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.compose.schema import run_id
from bench.report.__main__ import main
from bench.report.board import sections
from bench.report.entries import entries
from bench.report.model_sizes import size_figure, size_frame
from bench.report.stored_runs import read_whole_run
from tests.report.boards import ArenaPlan, probed, save, stored_arena


def measured(results: Path, model: str, weight_bytes: int, **speeds: float) -> Path:
    """A stored run of several methods in bfloat16 on a made-up model of that size."""
    made = probed(stored_arena(ArenaPlan(speeds, questions=24)), weight_bytes)
    identity = {**made.run.identity, "weights": model}
    name = run_id("arena", made.run.task, model, identity)
    return save(replace(made, run=replace(made.run, model=model, run_id=name, identity=identity)), results)


def test_methods_that_two_models_share_are_listed_by_size_and_drawn(tmp_path: Path, capsys: Any) -> None:
    large = measured(tmp_path, "large", 8_000_000_000, sam=2.0, medusa=1.6)
    small = measured(tmp_path, "small", 400_000_000, sam=1.4, swift=0.8)
    assert main(["model-sizes", str(large), str(small), "--figure", str(tmp_path / "sizes.png")]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    shown = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert [row[:3] for row in shown[1:3]] == [["sam", "small", "200 M"], ["sam", "large", "4,000 M"]]
    assert (tmp_path / "sizes.png").read_bytes().startswith(b"\x89PNG")


def test_a_tick_names_each_model(tmp_path: Path) -> None:
    folders = [
        measured(tmp_path, name, size, sam=1.5) for name, size in (("small", 4 * 10**8), ("large", 8 * 10**9))
    ]
    frame = size_frame([part for folder in folders for part in sections(entries(read_whole_run(folder)))])
    labels = [label.get_text() for label in size_figure(frame).axes[1].get_xticklabels()]
    assert labels == ["small\n200 M", "large\n4,000 M"]


def test_runs_of_other_questions_or_without_a_shared_method_are_refused(tmp_path: Path, capsys: Any) -> None:
    one, other = (
        measured(tmp_path, "small", 4 * 10**8, sam=1.5),
        measured(tmp_path, "large", 8 * 10**9, swift=1.5),
    )
    assert main(["model-sizes", str(one), str(other)]) != 0
    assert "share no method" in capsys.readouterr().err
    made = stored_arena(ArenaPlan({"sam": 1.2}, questions=20))
    fewer = save(made, tmp_path / "fewer")
    assert main(["model-sizes", str(one), str(fewer)]) != 0
    assert "differ in their questions" in capsys.readouterr().err
