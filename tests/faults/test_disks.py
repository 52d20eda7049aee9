"""Disks that are full or read-only, and record files that are not what was written."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from bench.records.damaged import DAMAGED_FILE
from bench.records.store import load_samples
from tests.faults.conftest import Undisturbed
from tests.faults.driver import End, Workload, only_run
from tests.faults.harms import FillDisk, FullDisk, InWrite
from tests.faults.ledger import Ledger


def assert_told(end: End, what: str) -> None:
    """Two lines on what is wrong and how to mend it, no traceback, status 2."""
    assert (end.status, len(end.mistake)) == (2, 2), end.said
    assert what in end.mistake[0]
    assert "what is stored is intact" in end.mistake[1]
    assert "Traceback" not in end.said


@pytest.mark.parametrize("share", [0.6, 0.99])
def test_a_run_that_may_write_no_more_says_so_and_keeps_what_it_has(
    share: float, workload: Workload, undisturbed: Undisturbed, ledger: Ledger, tmp_path: Path
) -> None:
    size = max(undisturbed.run_bytes + 600, int(share * undisturbed.bytes))
    assert_told(workload.run(tmp_path / "results", FullDisk(size)), "cannot be written: File too large")
    run = only_run(tmp_path / "results")
    kept = load_samples(run)
    assert 0 < len(kept) < 12
    workload.complete(tmp_path / "results")
    assert load_samples(run)[: len(kept)] == kept
    ledger.judge("disk full (file size limit)", 1, run)


def test_a_disk_that_takes_nothing_at_all_is_told_as_well(
    workload: Workload, ledger: Ledger, tmp_path: Path
) -> None:
    assert_told(workload.run(tmp_path / "results", FullDisk(400)), "cannot be written: File too large")
    workload.complete(tmp_path / "results")
    ledger.judge("disk full (file size limit)", 1, only_run(tmp_path / "results"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB; skips where none may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_run_on_a_disk_that_fills_up_ends_where_the_space_does(
    small_disk: Path, workload: Workload, ledger: Ledger
) -> None:
    filler, results = small_disk / "filler", small_disk / "results"
    assert_told(workload.run(results, FillDisk(2, filler)), "No space left on device")
    kept = load_samples(only_run(results))
    assert 0 < len(kept) < 12
    assert_told(workload.run(results), "No space left on device")
    filler.unlink()
    workload.complete(results)
    assert load_samples(only_run(results))[: len(kept)] == kept
    ledger.judge("disk full (tmpfs)", 2, only_run(results))


def test_a_read_only_disk_is_told_and_left_as_it_is(
    small_disk: Path, workload: Workload, ledger: Ledger
) -> None:
    results = small_disk / "results"
    assert workload.run(results, InWrite(5, 0.5, signal.SIGKILL)).status == -signal.SIGKILL
    before = (only_run(results) / "samples.jsonl").read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    end = workload.run(results)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert_told(end, "Read-only file system")
    assert (only_run(results) / "samples.jsonl").read_bytes() == before
    workload.complete(results)
    ledger.judge("read-only disk", 1, only_run(results))


def flipped(content: bytes, rng: Random) -> bytes:
    """Three bits, anywhere: in digits, in quotes, in newlines."""
    changed = bytearray(content)
    for place in rng.sample(range(len(content)), 3):
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zeroed(content: bytes, rng: Random) -> bytes:
    """A block of zeros, as a power cut leaves them."""
    start = rng.randrange(len(content) - 512)
    return content[:start] + bytes(512) + content[start + 512 :]


def cut_out(content: bytes, rng: Random) -> bytes:
    """A piece is missing, and the line with it."""
    start = rng.randrange(len(content) - 700)
    return content[:start] + content[start + rng.randint(1, 700) :]


def doubled(content: bytes, rng: Random) -> bytes:
    """A line that is there twice, its copy torn."""
    lines = content.splitlines(keepends=True)
    again = rng.choice(lines)
    return content + again[: rng.randrange(len(again))]


@pytest.mark.parametrize("harm", [flipped, zeroed, cut_out, doubled])
def test_a_damaged_record_file_loses_nothing_but_what_is_measured_again(
    harm: Callable[[bytes, Random], bytes], workload: Workload, ledger: Ledger, tmp_path: Path
) -> None:
    rng = Random(harm.__name__)
    workload.complete(tmp_path / "results")
    file = only_run(tmp_path / "results") / "samples.jsonl"
    whole = file.read_bytes()
    for _ in range(2 if harm is flipped else 1):
        file.write_bytes(harm(whole, rng))
        workload.complete(tmp_path / "results")
        intact = set(file.read_bytes().splitlines()) & set(whole.splitlines())
        assert len(intact) >= 12 - 6  # whatever was whole is still there, to the byte
        ledger.judge(f"corrupted record file: {harm.__name__.replace('_', ' ')}", 1, file.parent)
    assert (file.parent / DAMAGED_FILE).exists() == (harm is not doubled)


def test_a_corrupted_run_file_is_told_and_nothing_is_touched_until_it_is_restored(
    workload: Workload, ledger: Ledger, tmp_path: Path
) -> None:
    assert workload.run(tmp_path / "results", InWrite(5, 0.5, signal.SIGKILL)).status == -signal.SIGKILL
    run = only_run(tmp_path / "results")
    whole, samples = (run / "run.json").read_bytes(), (run / "samples.jsonl").read_bytes()
    (run / "run.json").write_bytes(whole.replace(b'"attempts": [', b'"attempts": '))
    end = workload.run(tmp_path / "results")
    assert (end.status, len(end.mistake)) == (2, 2), end.said
    assert "run.json is no run" in end.mistake[0]
    assert (run / "samples.jsonl").read_bytes() == samples
    (run / "run.json").write_bytes(whole)
    workload.complete(tmp_path / "results")
    ledger.judge("corrupted run.json: refused until restored", 1, run)
