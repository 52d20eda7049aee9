"""Workers end with the process that started them, however it ends."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.measure.environment import ROOT

STARTS_A_WORKER = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from bench.measure.isolate import end_with_parent
pool = ProcessPoolExecutor(1, get_context("spawn"), end_with_parent)
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 60).result()
"""


def state(process: int) -> str:
    """Of a process, as ps prints it; empty where there is none."""
    command = ["ps", "-o", "stat=", "-p", str(process)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def test_a_worker_ends_when_its_parent_is_killed() -> None:
    command = [sys.executable, "-c", STARTS_A_WORKER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert state(worker)
        parent.kill()
    deadline = time.monotonic() + 10
    while state(worker) not in ("", "Z", "Zs") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state(worker) in ("", "Z", "Zs")
