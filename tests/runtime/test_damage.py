"""Whatever is damaged in a checkpoint: the ids of ``transformers.generate``, or a message with the fix."""

import builtins
import os
import shutil
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import FrameType

import pytest
import torch

from bench.compose.identity import checkpoint_hash
from bench.errors import UserError
from bench.runtime.loading import load_decoder
from tests.runtime.checkpoints import oracle_ids, our_ids, save
from tests.runtime.damage import damage, gguf_damage
from tests.runtime.gguf_files import write_gguf
from tests.runtime.models import CONFIGS, options, tiny_model

COUNT = int(os.environ.get("DAMAGES", "150"))
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


def gguf_outcome(whole: bytes, path: Path, seed: int) -> str | None:
    """As `outcome` for a GGUF file with another header, which is loaded, or refused with a message."""
    path.write_bytes(gguf_damage(whole, Random(seed)))
    try:
        checkpoint_hash(path)
        load_decoder(path, options()).prefill(torch.tensor([1, 2, 3]))
    except UserError:
        return None
    except Exception as error:  # noqa: BLE001 - as above
        return f"{seed}: {type(error).__name__}: {str(error)[:200]}"
    return None


def late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"no answer after {MOST_S} s")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing may ask for input or hang; warnings are no errors, as outside of tests."""
    monkeypatch.setattr(builtins, "input", lambda *prompt: pytest.fail("asked for input"))
    before = signal.signal(signal.SIGALRM, late)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("watched")
def test_damage_ends_in_a_message_or_changes_nothing(tmp_path: Path) -> None:
    source, wrong = save(tmp_path / "whole"), []
    for seed in range(COUNT):
        signal.alarm(MOST_S)
        wrong.append(outcome(source, tmp_path / "damaged", seed))
        shutil.rmtree(tmp_path / "damaged")
    assert [line for line in wrong if line] == []


@pytest.mark.usefixtures("watched")
def test_a_damaged_gguf_header_ends_in_a_message(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny_model(CONFIGS["llama-mha"]), "llama")
    whole, wrong = path.read_bytes(), []
    for seed in range(COUNT // 2):
        signal.alarm(MOST_S)
        wrong.append(gguf_outcome(whole, path, seed))
    assert [line for line in wrong if line] == []
