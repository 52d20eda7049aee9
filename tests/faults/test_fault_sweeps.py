"""Whole sweeps from the command line, each run in a process of its own, ended at random and started again."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from random import Random

import pytest

from tests.faults.ledger import PROPERTY, contents, damage

ROOT = Path(__file__).resolve().parents[2]
SHORT = [
    "model=tiny",
    "task.limit=1",
    "max_new_tokens=16",
    "measure.repeats=1",
    "measure.warmup.max_rounds=1",
]
ISOLATED = [
    "launch=isolated",
    "method=layerskip,kangaroo,medusa,prompt_lookup",
    "task=qa,mt_bench,translation",
]
PATIENCE_S = 1800

pytestmark = pytest.mark.slow

Enter = Callable[[str, object], None]


@contextmanager
def sweep(
    results: Path, *arguments: str, env: Mapping[str, str] = os.environ
) -> Iterator[subprocess.Popen[str]]:
    """A sweep under way; it is over when the block ends."""
    command = [sys.executable, "-m", "bench", "-m", *arguments, *SHORT, f"results_dir={results}"]
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
        yield process


def see_through(results: Path, *arguments: str, env: Mapping[str, str] = os.environ) -> None:
    with sweep(results, *arguments, env=env) as process:
        _, output = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output


def stored(results: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in results.glob("runs/*/samples.jsonl"))


def wait_for(process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    """Poll until something is so; the process must not end before."""
    patience = time.monotonic() + PATIENCE_S
    while not is_so():
        assert process.poll() is None
        assert time.monotonic() < patience
        time.sleep(0.002)


def compare(fault: str, tried: int, results: Path, undisturbed: Path, enter: Enter) -> None:
    """Every run of a sweep beside the undisturbed one of the same name."""
    names = sorted(run.name for run in (undisturbed / "runs").iterdir())
    assert names == sorted(run.name for run in (results / "runs").iterdir())
    damages = [damage(results / "runs" / name, contents(undisturbed / "runs" / name)) for name in names]
    sums = [sum(column) for column in zip(*map(astuple, damages), strict=True)]
    enter(PROPERTY, [fault, tried, *sums])
    assert all(damaged.is_none for damaged in damages), damages


def test_a_sweep_of_twelve_isolated_runs_killed_three_times_ends_like_an_undisturbed_one(
    tmp_path: Path, record_property: Enter
) -> None:
    undisturbed, results, rng = tmp_path / "undisturbed", tmp_path / "results", Random(12)
    see_through(undisturbed, *ISOLATED)
    total = stored(undisturbed)
    for third in range(3):
        enough = rng.randint(total * third // 3 + 1, total * (third + 1) // 3)
        with sweep(results, *ISOLATED) as process:
            wait_for(process, lambda enough=enough: stored(results) >= enough)  # type: ignore[misc]
            time.sleep(rng.random() * 0.5)
            process.kill()
            process.communicate(timeout=60)  # the run under way held the pipe, and is gone
    see_through(results, *ISOLATED)
    assert len(list((results / "runs").iterdir())) == 12
    compare("SIGKILL of an isolated sweep of 12 runs", 3, results, undisturbed, record_property)


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="extra 'launch' is not installed")
def test_runs_on_slurm_that_are_preempted_are_requeued_and_resume(
    tmp_path: Path, record_property: Enter
) -> None:
    stub = f"{ROOT / 'tests' / 'slurm_stub'}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": stub, "FAKE_SLURM_STATE": str(tmp_path / "slurm_state")}
    arguments = ["launch=slurm", "method=layerskip,medusa", "task=mt_bench"]
    undisturbed, results = tmp_path / "undisturbed", tmp_path / "results"
    see_through(undisturbed, *arguments[1:])
    with sweep(results, *arguments, env=env) as process:
        for method in ("layerskip", "medusa"):
            wait_for(process, lambda method=method: has_begun(results, method))  # type: ignore[misc]
            (lock,) = results.glob(f"runs/{method}-*/.lock")
            os.kill(json.loads(lock.read_bytes())["pid"], signal.SIGUSR2)
        _, output = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    starts = [len(json.loads(file.read_text())["attempts"]) for file in results.glob("runs/*/run.json")]
    assert starts == [2, 2]
    compare("preempted and requeued on Slurm (stub)", 2, results, undisturbed, record_property)


def has_begun(results: Path, method: str) -> bool:
    """Whether a run has stored a sample."""
    return any(file.stat().st_size for file in results.glob(f"runs/{method}-*/samples.jsonl"))
