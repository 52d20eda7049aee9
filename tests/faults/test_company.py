"""Several processes at once, other machines, and locks that a dead process left."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from bench.records.files import STALE_S
from bench.records.store import load_run
from tests.faults.conftest import Undisturbed
from tests.faults.driver import PATIENCE_S, Workload, only_run
from tests.faults.harms import AtLine, InWrite, OtherDevice
from tests.faults.ledger import Ledger

KILLED = InWrite(5, 0.5, signal.SIGKILL)


def test_the_second_process_on_a_run_is_refused_and_told_who_has_it(
    workload: Workload, undisturbed: Undisturbed, ledger: Ledger, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    first = workload.begin(results, InWrite(4, 0.5, signal.SIGSTOP))
    number = first.process.pid
    assert number is not None
    wait_until_stopped(number)
    second = workload.run(results)
    assert (second.status, len(second.mistake)) == (2, 2), second.said
    assert f"is being written by process {number} on " in second.mistake[0]
    assert second.mistake[1] == "fix: wait for it or stop it, then run the same command again"
    os.kill(number, signal.SIGCONT)
    assert first.end().status == 0
    ledger.judge("second process on the same run", 1, only_run(results))


def wait_until_stopped(number: int) -> None:
    patience = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_several_processes_write_different_runs_into_one_folder_and_one_of_them_dies(
    workload: Workload, ledger: Ledger, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    several = [replace(workload, seed=seed) for seed in range(4)]
    harms = [None, KILLED, None, AtLine(900, signal.SIGKILL)]
    starts = [workload.begin(results, harm) for workload, harm in zip(several, harms, strict=True)]
    assert [start.end().status for start in starts] == [0, -signal.SIGKILL, 0, -signal.SIGKILL]
    for workload in several[1::2]:
        workload.complete(results)
    runs = sorted((results / "runs").iterdir())  # greedy: the seed names the run and changes no token
    assert len(runs) == 4
    ledger.judge("several runs into one folder at once, two killed", 4, *runs)


def test_several_processes_on_the_same_run_at_once_measure_every_sample_once(
    workload: Workload, ledger: Ledger, tmp_path: Path
) -> None:
    starts = [workload.begin(tmp_path / "results") for _ in range(3)]
    ends = [start.end() for start in starts]
    assert 0 in {end.status for end in ends}
    assert all(end.status == 0 or "is being written by" in end.mistake[0] for end in ends), ends
    ledger.judge("several processes on the same run at once", 3, only_run(tmp_path / "results"))


def test_a_resumption_on_another_device_is_refused_and_leaves_no_trace(
    workload: Workload, ledger: Ledger, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    assert workload.run(results, KILLED).status == -signal.SIGKILL
    run = only_run(results)
    before = {name: (run / name).read_bytes() for name in ("run.json", "samples.jsonl")}
    end = workload.run(results, OtherDevice("GPU of another machine"))
    assert (end.status, len(end.mistake)) == (2, 2), end.said
    assert "device" in end.mistake[0]
    assert "timings must not mix" in end.mistake[0]
    assert {name: (run / name).read_bytes() for name in before} == before
    workload.complete(results)
    assert len({attempt["device"] for attempt in load_run(run).attempts}) == 1
    ledger.judge("resumption on another device: refused", 1, run)


def test_a_lock_that_a_dead_host_left_is_taken_over_once_it_is_stale(
    workload: Workload, ledger: Ledger, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    assert workload.run(results, KILLED).status == -signal.SIGKILL
    lock = only_run(results) / ".lock"
    lock.write_text(json.dumps({"pid": 77, "host": "node7", "job": None, "time": time.time()}))
    end = workload.run(results)
    assert (end.status, len(end.mistake)) == (2, 2), end.said
    assert "is being written by process 77 on node7" in end.mistake[0]
    assert f"if it is gone for certain, delete {lock}" in end.mistake[1]
    os.utime(lock, times=(time.time() - STALE_S - 5,) * 2)
    workload.complete(results)
    ledger.judge("lock left by a host that died", 1, only_run(results))
