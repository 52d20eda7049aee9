"""A certificate for edited code: kept in seconds where it decodes alike, lost where it does not."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

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


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with a certificate of an out-of-tree method; its code lies beside them."""
    folder = tmp_path_factory.mktemp("proved")
    (folder / "conf" / "method").mkdir(parents=True)
    (folder / "conf" / "method" / "mine.yaml").write_text("_target_: carried_package.Mine\n")
    (folder / "carried_package.py").write_text(MINE)
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, patch)
        assert again(folder / "carried_package.py", folder / "results", patch) == 0
    GlobalHydra.instance().clear()
    return folder


@pytest.fixture
def mine(proved: Path, tmp_path: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a method that has a certificate in `results_dir`."""
    for name in ("conf", "carried_package.py"):
        source = proved / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    shutil.copytree(proved / "results", results_dir)
    prepare(tmp_path, monkeypatch)
    yield tmp_path / "carried_package.py"
    sys.modules.pop("carried_package", None)


def prepare(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A small proof of code that lies in a folder."""
    patch.setattr("bench.prove.prover.FAMILIES", ("llama",))
    patch.setattr("bench.prove.battery.FAMILIES", ("llama",))
    patch.setattr("bench.prove.crew.TRIED", ())
    patch.syspath_prepend(str(folder))


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
    assert fix == "  fix: prove again, by the same command without carry=true"


def test_nothing_is_carried_from_nothing(
    mine: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert again(mine, results_dir / "other", monkeypatch, "carry=true") == 1
    assert "no certificate to carry over" in capsys.readouterr().out


def test_the_transcript_is_on_record(mine: Path, results_dir: Path) -> None:
    ((path, kept),) = certificates_of("mine", results_dir)
    assert len(kept.transcript) > 10
    assert json.loads(path.read_text())["transcript"] == kept.transcript
