"""Errors of Hydra and of the disk in two lines that fit the command that runs."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from bench.compose.mistakes import explain


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("bench.__main__", "bench --help"),
        ("bench.train.__main__", "bench.train --help"),
        ("bench.train.answers.__main__", "bench.train.answers --help"),
        ("pytest.__main__", "bench --help"),
    ],
)
def test_the_help_of_the_command_that_runs_is_named(
    module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = ModuleType("__main__")
    main.__spec__ = ModuleSpec(module, None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    mistake = explain(ValueError("malformed"))
    assert mistake is not None
    assert f"'python -m {command}'" in mistake.fix


def test_a_log_that_cannot_be_written_is_named() -> None:
    error = ValueError("Unable to configure handler 'file'")
    error.__cause__ = PermissionError(13, "Permission denied", "/results/bench.log")
    mistake = explain(error)
    assert mistake is not None
    assert mistake.what == "/results/bench.log cannot be written: Permission denied"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that makes no folders")
def test_a_folder_that_cannot_be_made_is_named_and_a_missing_file_is_no_such_thing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as refused:
        Path("/proc/x").mkdir(parents=True)
    mistake = explain(refused.value)
    assert mistake is not None
    assert mistake.what == "/proc/x cannot be written: No such file or directory"
    with pytest.raises(OSError, match="No such file") as missing:
        (tmp_path / "absent").read_text()
    assert explain(missing.value) is None
