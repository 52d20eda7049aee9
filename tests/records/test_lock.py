"""Who may write to a run: the kernel's lock, and the note of another host whose kernel tells of none."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.records import files as locks
from bench.records.files import STALE_S, acquire, release, renew


def leave_note(folder: Path, age_s: float, **facts: Any) -> None:
    """The lock file as another process left it, without the kernel's lock."""
    path = folder / ".lock"
    note = {"pid": 77, "host": "node7", "job": None, "time": time.time() - age_s}
    path.write_text(json.dumps(note | facts))
    os.utime(path, times=(time.time() - age_s,) * 2)


def test_the_second_is_told_who_the_first_is_and_since_when(tmp_path: Path) -> None:
    held = acquire(tmp_path)
    with pytest.raises(
        UserError, match=rf"is being written by process {os.getpid()} on \S+, for \d+ s"
    ) as caught:
        acquire(tmp_path)
    assert caught.value.fix == "wait for it or stop it, then run the same command again"
    release(held)
    release(acquire(tmp_path))


def test_a_holder_that_has_not_written_its_note_yet_is_named_so(tmp_path: Path) -> None:
    held = acquire(tmp_path)
    os.ftruncate(held, 0)
    with pytest.raises(UserError, match="another process that started this moment"):
        acquire(tmp_path)
    release(held)


def test_the_note_of_a_dead_process_on_this_host_is_stale_at_once(tmp_path: Path) -> None:
    leave_note(tmp_path, 5, host=locks.socket.gethostname())
    release(acquire(tmp_path))


def test_a_fresh_note_of_another_host_counts_although_its_lock_is_not_seen(tmp_path: Path) -> None:
    leave_note(tmp_path, 5)
    with pytest.raises(UserError, match=r"process 77 on node7, for [56] s") as caught:
        acquire(tmp_path)
    assert "if it is gone for certain, delete" in caught.value.fix


@pytest.mark.parametrize("age_s", [STALE_S + 5, -STALE_S - 5], ids=["long silent", "from a clock far ahead"])
def test_a_note_of_another_host_without_a_sign_of_life_is_stale(tmp_path: Path, age_s: float) -> None:
    leave_note(tmp_path, age_s)
    release(acquire(tmp_path))


def test_a_clock_set_back_a_little_makes_no_note_stale(tmp_path: Path) -> None:
    leave_note(tmp_path, -30)
    with pytest.raises(UserError, match="for 0 s"):
        acquire(tmp_path)


def test_a_requeued_job_takes_over_from_itself_on_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    leave_note(tmp_path, 5, job="4712")
    with pytest.raises(UserError, match="node7"):
        acquire(tmp_path)
    leave_note(tmp_path, 5, job="4711")
    release(acquire(tmp_path))


def test_letting_go_leaves_nothing_for_another_host_to_wait_for(tmp_path: Path) -> None:
    release(acquire(tmp_path))
    assert (tmp_path / ".lock").read_bytes() == b""


def test_a_sign_of_life_renews_the_age(tmp_path: Path) -> None:
    held = acquire(tmp_path)
    os.utime(tmp_path / ".lock", times=(0, 0))
    renew(held)
    assert (tmp_path / ".lock").stat().st_mtime > 1e9
    release(held)


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    with pytest.raises(UserError, match="a file system without locks"):
        acquire(tmp_path)
