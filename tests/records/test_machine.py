"""When a run may be continued: the same settings, on a machine whose timings may be put together."""

from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.records.resuming import check_machine

HERE: dict[str, Any] = {
    "device": "NVIDIA H100",
    "dtype": "bfloat16",
    "cpu": {"model": "EPYC", "load_1min": 0.5},
    "versions": {"torch": "2.13.0", "cuda": "13.0", "hydra-core": "1.3.8"},
    "git": {"commit": "a", "diff": None},
    "started_utc": "2026-01-01T00:00:00+00:00",
}


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ({"device": "NVIDIA A100"}, "device 'NVIDIA A100', not 'NVIDIA H100'"),
        ({"device": "EPYC, 2 threads"}, "device 'EPYC, 2 threads', not"),
        ({"dtype": "float32"}, "precision 'float32', not 'bfloat16'"),
        ({"cpu": {"model": "Xeon"}}, "CPU 'Xeon', not 'EPYC'"),
        ({"versions": {"torch": "2.12.0", "cuda": "13.0"}}, "torch '2.12.0', not '2.13.0'"),
        ({"versions": {"torch": "2.13.0", "cuda": "12.8"}}, "CUDA '12.8', not '13.0'"),
        ({"attention": "lengths"}, "attention 'lengths', not None"),
        ({"versions": {}}, "torch None, not '2.13.0'; CUDA None"),
    ],
    ids=["GPU", "thread count", "precision", "host CPU", "torch", "CUDA", "attention", "unknown"],
)
def test_another_machine_is_refused_and_named(there: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as caught:
        check_machine([HERE, HERE | there], HERE, Path("run"))
    assert named in caught.value.what
    assert "timings must not mix" in caught.value.what


def test_what_does_not_change_timings_is_no_other_machine(caplog: pytest.LogCaptureFixture) -> None:
    later = {"started_utc": "2027", "cpu": {"model": "EPYC", "load_1min": 9.0}}
    check_machine([HERE | later], HERE, Path("run"))
    assert caplog.text == ""


def test_other_code_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    check_machine([HERE | {"git": {"commit": "b", "diff": None}}], HERE, Path("run"))
    assert "measured by other code" in caplog.text
