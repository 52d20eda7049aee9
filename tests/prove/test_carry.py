"""A certificate for edited code: kept in seconds where it decodes alike, lost where it does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.prove.certificates import certificates_of
from tests.prove.test_prove_cli import prove

MINE = """
from methods.core.chain import ChainMethod, DraftBuilder
from methods.lookup.prompt_lookup import PromptLookup


class Mine(PromptLookup):
    def __init__(self) -> None:
        super().__init__(max_ngram=LONGEST, draft_length=4)


LONGEST = 1
"""


@pytest.fixture
def mine(tmp_path: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of an out-of-tree method that has a certificate."""
    monkeypatch.setattr("bench.prove.prover.FAMILIES", ("llama",))
    monkeypatch.setattr("bench.prove.battery.FAMILIES", ("llama",))
    monkeypatch.setattr("bench.prove.crew.TRIED", ())
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text("_target_: carried_package.Mine\n")
    path = tmp_path / "carried_package.py"
    path.write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert again(path, results_dir, monkeypatch) == 0
    yield path
    sys.modules.pop("carried_package", None)


def again(path: Path, results: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit status of the command on the file as it is now."""
    sys.modules.pop("carried_package", None)
    return prove(monkeypatch, results, "--config-dir", str(path.parent / "conf"), "method=mine", *arguments)


def test_an_edit_that_computes_nothing_needs_no_carrying(
    mine: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.write_text(MINE.replace("class Mine", "# a comment\nclass Mine"))
    assert again(mine, results_dir, monkeypatch, "carry=true") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_other_code_that_decodes_alike_keeps_the_certificate_and_both_hashes(
    mine: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.write_text(MINE.replace("LONGEST = 1", "LONGEST = 3 - 2"))
    assert again(mine, results_dir, monkeypatch, "carry=true") == 0
    assert "carried over from" in capsys.readouterr().out
    ((_, kept),) = certificates_of("mine", results_dir)
    assert len({code.source for code in kept.code}) == 2


def test_code_that_decodes_otherwise_loses_it(
    mine: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.write_text(MINE.replace("LONGEST = 1", "LONGEST = 2"))
    assert again(mine, results_dir, monkeypatch, "carry=true") == 1
    lost, fix = capsys.readouterr().out.splitlines()
    assert "LOST" in lost
    assert "random llama" in lost
    assert fix == "  fix: python -m bench.prove method=mine"


def test_nothing_is_carried_from_nothing(
    mine: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert again(mine, results_dir / "other", monkeypatch, "carry=true") == 1
    assert "no certificate to carry over" in capsys.readouterr().out


def test_the_transcript_is_on_record(mine: Path, results_dir: Path) -> None:
    ((path, kept),) = certificates_of("mine", results_dir)
    assert len(kept.transcript) > 10
    assert json.loads(path.read_text())["transcript"] == kept.transcript
