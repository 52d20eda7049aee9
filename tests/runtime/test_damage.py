"""Whatever is damaged in a checkpoint: the ids of ``transformers.generate``, or a message with the fix."""

import builtins
import os
import shutil
import signal
import warnings
from pathlib import Path
from types import FrameType

import pytest

from bench.errors import UserError
from tests.runtime.checkpoints import oracle_ids, our_ids, save
from tests.runtime.damage import damage

COUNT = int(os.environ.get("DAMAGES", "160"))
"""Damages to try; more by ``DAMAGES=1000 pytest tests/runtime/test_damage.py``."""
MOST_S = 20


def outcome(source: Path, folder: Path, seed: int) -> str | None:
    """What is wrong with our handling of one damage; None if nothing is."""
    what = damage(source, folder, seed)
    try:
        ids, answer = our_ids(folder)
    except UserError as error:
        lines = [error.what.strip(), error.fix.strip()]
        return None if all(lines) else f"{seed}: {what}: an empty message {lines}"
    except Exception as error:  # noqa: BLE001 - the point of the test
        return f"{seed}: {what}: {type(error).__name__}: {str(error)[:200]}"
    try:
        expected = oracle_ids(folder, ids)
    except Exception:  # noqa: BLE001 - transformers cannot load it, so the damage must be harmless
        expected = oracle_ids(source, ids)
    return None if answer == expected else f"{seed}: {what}: {answer} for {expected}"


def late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"no answer after {MOST_S} s")


def test_damage_ends_in_a_message_or_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "input", lambda *prompt: pytest.fail("asked for input"))
    source = save(tmp_path / "whole")
    before = signal.signal(signal.SIGALRM, late)
    wrong = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed in range(COUNT):
                signal.alarm(MOST_S)
                wrong.append(outcome(source, tmp_path / "damaged", seed))
                shutil.rmtree(tmp_path / "damaged")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert [line for line in wrong if line] == []
