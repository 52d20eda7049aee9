"""Files are written whole or not at all, and nothing else is left beside them."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bench.records.files import ABANDONED_S, replacing, scratch_folder, write_bytes, write_text


def test_a_file_is_replaced_by_its_new_content(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")
    write_text(path, "Grüße\n")
    assert path.read_bytes() == "Grüße\n".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_a_failure_keeps_the_old_content_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as fresh:
            fresh.write_text("half of the n")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_forced_to_disk_before_it_replaces_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")

    def refused(file: int) -> None:
        assert path.read_text() == "old"
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("bench.records.files.os.fsync", refused)
    with pytest.raises(OSError, match="Input/output error"):
        write_bytes(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.with_name("run.json.tmp").write_text("left by a killed process")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_processes_that_share_a_file_write_to_different_ones_first(tmp_path: Path) -> None:
    path, names = tmp_path / "questions.jsonl", list[str]()
    with replacing(path, is_shared=True) as fresh:
        names.append(fresh.name)
        fresh.write_text("whole")
    assert names == [f"questions.jsonl.{os.getpid()}.tmp"]
    assert path.read_text() == "whole"


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    def nothing(path: Any) -> None:
        with replacing(path):
            pass

    with pytest.raises(FileNotFoundError):
        nothing(tmp_path / "run.json")


def test_a_scratch_folder_goes_and_takes_those_of_killed_processes_along(tmp_path: Path) -> None:
    names = ["building-killed", "building-fresh", "building-at-work", "other"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half of a file")
    old = time.time() - 2 * ABANDONED_S
    for name in ("building-killed", "building-at-work", "other"):
        os.utime(tmp_path / name, (old, old))
    lock = os.open(tmp_path / "building-at-work", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with scratch_folder(tmp_path, "building-") as scratch:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], scratch.name])
        os.utime(scratch, (old, old))
        with scratch_folder(tmp_path, "building-"):
            assert scratch.is_dir()  # in use, however old
    os.close(lock)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
