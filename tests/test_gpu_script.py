"""``.ci/gpu.py``: its phases fit into the time that a GPU is lent for, and none can hold up the others."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT

LENT_S = 10 * 60
"""The longest that one call on such a machine may take."""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / ".ci" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_script", module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


def test_the_first_phases_fit_into_four_minutes_and_all_into_ten(script: Any) -> None:
    phases = script.phases(None)
    assert [phase.name for phase in phases][:3] == ["environment", "check", "profile"]
    assert sum(phase.limit_s for phase in phases[:2]) < 4 * 60
    assert sum(phase.limit_s for phase in phases) <= LENT_S
    assert all(phase.dry for phase in phases)


def test_a_model_file_is_whole_again_after_the_trip(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PIECE_BYTES", 1000)
    monkeypatch.setattr(script, "WHEELS", ())
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: None)
    model = tmp_path / "model"
    model.write_bytes(bytes(range(256)) * 10)
    script.pack(model)
    assert [piece.stat().st_size for piece in sorted(script.PIECES.glob("*.0*"))] == [1000, 1000, 560]
    assert script.joined().read_bytes() == model.read_bytes()


def test_a_phase_ends_at_its_limit_and_the_next_one_runs(script: Any, tmp_path: Path) -> None:
    sleeper, good = (sys.executable, "-c", "import time; time.sleep(60)"), (sys.executable, "-c", "print(7)")
    slow = script.Phase("slow", 1.5, [sleeper, good], [])
    quick = script.Phase("quick", 30, [good, ("no_such_program",)], [])
    assert script._run_phase(slow, slow.commands, tmp_path).startswith("ended after")
    assert script._run_phase(quick, quick.commands, tmp_path).startswith("no_such_program: No such file")
    assert "7" in (tmp_path / "quick.log").read_text()
    assert len((tmp_path / "summary.txt").read_text().splitlines()) == 2


def test_an_unknown_phase_is_named(script: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="unknown phase atlas"):
        script.run(tmp_path, ["atlas"], is_dry=True)
