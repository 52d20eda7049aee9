"""Exceptions inside a run: in the method, in the harness's judgement, in its clocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.records.store import load_samples
from tests.faults.driver import Workload, begin_settings, only_run
from tests.faults.harms import Harm, InJudging, InPass, TimerBack, WallClockBack, out_of_memory
from tests.faults.ledger import Ledger


@pytest.mark.parametrize(
    ("fault", "harm", "failures", "error"),
    [
        ("exception inside a method", InPass(12, IndexError("row 7 of 5")), 1, "IndexError: row 7 of 5"),
        ("exception inside a method", InPass(1, IndexError("row 7 of 5"), is_lasting=True), 6, "IndexError"),
        ("CUDA out of memory", InPass(20, out_of_memory()), 1, "OutOfMemoryError: CUDA out of memory"),
        ("CUDA out of memory", InPass(16, out_of_memory(), is_lasting=True), 3, "OutOfMemoryError"),
        ("CUDA out of memory", InJudging(3, out_of_memory()), 1, "OutOfMemoryError"),
        ("clock going backwards", TimerBack(9), 1, "the timer went back"),
    ],
    ids=[
        "once",
        "always, the warm-up's passes too",
        "out of memory once",
        "out of memory from then on",
        "out of memory while judging",
        "a timer that jumps back",
    ],
)
def test_a_failed_sample_is_recorded_as_one_and_measured_at_the_next_start(
    fault: str, harm: Harm, failures: int, error: str, workload: Workload, ledger: Ledger, tmp_path: Path
) -> None:
    end = begin_settings(workload.settings(tmp_path / "results"), harm).end()
    assert end.status == 0, end.said  # it went on to its last sample
    run = only_run(tmp_path / "results")
    failed = [sample.error for sample in load_samples(run) if sample.error is not None]
    assert len(failed) >= failures
    assert any(error in message for message in failed), failed
    workload.complete(tmp_path / "results")
    ledger.judge(fault, 1, run)


def test_a_wall_clock_that_is_set_back_all_the_time_matters_to_nobody(
    workload: Workload, ledger: Ledger, tmp_path: Path
) -> None:
    settings = workload.settings(tmp_path / "results")
    ends = [begin_settings(settings, WallClockBack()).end() for _ in range(2)]
    assert [end.status for end in ends] == [0, 0], ends
    ledger.judge("clock going backwards", 2, only_run(tmp_path / "results"))
