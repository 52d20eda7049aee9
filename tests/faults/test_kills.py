"""Runs that are ended from outside at seeded points and started again by the same command."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from random import Random

import pytest

from bench.compose.settings import Settings
from tests.faults.conftest import Undisturbed
from tests.faults.driver import PATIENCE_S, End, Workload, attempts, begin_settings, only_run
from tests.faults.harms import AtLine, InWrite
from tests.faults.ledger import Ledger

Kill = Callable[[Settings, Random], End]
CHAIN = 4
"""Kills in a row after which a run may end."""


def before_a_line(lines: int) -> Kill:
    def kill(settings: Settings, rng: Random) -> End:
        return begin_settings(settings, AtLine(rng.randint(1, lines), signal.SIGKILL)).end()

    return kill


def in_mid_write(settings: Settings, rng: Random) -> End:
    return begin_settings(settings, InWrite(rng.randint(1, 5), rng.random(), signal.SIGKILL)).end()


def at_any_moment(settings: Settings, rng: Random) -> End:
    """From outside, once some more samples are stored and then a few milliseconds have passed."""
    start = begin_settings(settings, None)
    enough = stored_lines(settings) + rng.randint(0, 4)
    patience = time.monotonic() + PATIENCE_S
    while not start.is_over() and stored_lines(settings) < enough and time.monotonic() < patience:
        time.sleep(0.001)
    start.is_over(rng.random() * 0.02)
    start.process.kill()
    return start.end()


def stored_lines(settings: Settings) -> int:
    return sum(file.read_bytes().count(b"\n") for file in settings.results_dir.glob("runs/*/samples.jsonl"))


@pytest.mark.parametrize(
    ("fault", "kills"),
    [("SIGKILL before a line of code", 10), ("SIGKILL in mid-write", 5), ("SIGKILL at any moment", 4)],
)
def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(
    fault: str, kills: int, workload: Workload, undisturbed: Undisturbed, ledger: Ledger, tmp_path: Path
) -> None:
    ways = {"line": before_a_line(undisturbed.lines), "mid-write": in_mid_write, "moment": at_any_moment}
    kill = next(way for word, way in ways.items() if word in fault)

    def chain(number: int) -> tuple[int, Path]:
        """Kills in a row, then the end; how many hit, and the run."""
        rng, settings = Random(f"{fault} {number}"), workload.settings(tmp_path / str(number))
        ends = [kill(settings, rng)]
        while ends[-1].status != 0 and len(ends) < CHAIN:
            ends.append(kill(settings, rng))
        assert {end.status for end in ends} <= {0, -signal.SIGKILL}, ends
        workload.complete(settings.results_dir)
        return sum(end.status != 0 for end in ends), only_run(settings.results_dir)

    made, runs, numbers = 0, list[Path](), count()
    workload.settings(tmp_path)  # composed here, for Hydra's state does not bear two threads at once
    with ThreadPoolExecutor(2) as pool:
        while made < kills:
            for hits, run in pool.map(chain, islice(numbers, 2)):
                made += hits
                runs.append(run)
    ledger.judge(fault, made, *runs)


@pytest.mark.parametrize(
    ("fault", "number", "status"),
    [("SIGTERM", signal.SIGTERM, -signal.SIGTERM), ("Ctrl-C", signal.SIGINT, 130)],
)
def test_a_run_that_is_told_to_end_is_resumed_by_the_same_command(
    fault: str,
    number: int,
    status: int,
    workload: Workload,
    undisturbed: Undisturbed,
    ledger: Ledger,
    tmp_path: Path,
) -> None:
    rng = Random(fault)
    lines = [AtLine(rng.randint(1, undisturbed.lines * part // 3), number) for part in (2, 1)]
    harms = [*lines, InWrite(2, rng.random(), number)]
    ends = [workload.run(tmp_path / "results", harm) for harm in harms]
    assert [end.status for end in ends] == [status] * len(harms), ends
    if status == 130:
        assert all("interrupted: everything measured so far is kept" in end.said for end in ends)
    workload.complete(tmp_path / "results")
    run = only_run(tmp_path / "results")
    assert attempts(run) <= len(harms) + 1
    ledger.judge(fault, len(harms), run)
