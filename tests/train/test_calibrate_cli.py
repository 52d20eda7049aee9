"""``python -m bench.train.calibrate``: a tree is measured and stored beside the weights, by one command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bench.train.calibrate.cli import main
from tests.command import Done, mistake_lines, run_command
from tests.harness import ROOT

MODULES = ROOT / "bench" / "assets" / "tiny" / "modules"
SMALL = ["per_subtask=1", "tokens=16", "max_nodes=2", "width=2"]


def calibrate(method: str, weights: Path, log: Path, *overrides: str) -> Done:
    chosen = [f"method={method}", f"method.weights={weights}", f"hydra.run.dir={log}"]
    return run_command(main, *chosen, *SMALL, *overrides)


@pytest.mark.parametrize("method", ["medusa", "hidden_transfer"])
def test_the_tree_is_stored_beside_the_weights(method: str, tmp_path: Path) -> None:
    weights = tmp_path / method
    shutil.copytree(MODULES / method, weights)
    before = json.loads((weights / "module.json").read_text())
    (weights / "module.json").write_text(json.dumps({**before, "tree": None, "calibration": None}))
    got = calibrate(method, weights, tmp_path)
    assert got.returncode == 0, got.stderr
    after = json.loads((weights / "module.json").read_text())
    assert after["tree"] in ([[0]], [[0], [0, 0]], [[0], [1]])
    assert after["calibration"]["expected_tokens"] > 1
    assert len(after["calibration"]["accuracies"][0]) == 2
    assert after["figures"] == before["figures"]  # the rest stays
    assert isinstance(after.get("two_phase"), bool) == (method == "hidden_transfer")


@pytest.mark.parametrize(
    ("method", "overrides", "what"),
    [
        ("kangaroo", [], "method=kangaroo drafts no tree"),
        ("medusa", ["tokens=3"], "tokens must be at least 16, got 3"),
    ],
    ids=["a chain", "texts too short"],
)
def test_mistakes_take_two_lines(method: str, overrides: list[str], what: str, tmp_path: Path) -> None:
    got = calibrate(method, MODULES / method, tmp_path, *overrides)
    assert got.returncode == 2
    assert what in got.stderr
    assert len(mistake_lines(got.stderr)) == 2
