"""Packed runs: read as plain ones are, unpacked before anything is appended, refused when damaged."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.records.model import Arm, Run, Sample
from bench.records.packing import PACKED, PLAIN, pack
from bench.records.store import RunStore, load_samples
from bench.report.__main__ import main

RUN = Run("kangaroo-qa-tiny-0", "kangaroo", "qa", "tiny", {}, {}, ({"device": "cpu A"},), {})
SAMPLE = Sample("q1", "qa", 0, 0, Arm.METHOD, 0, error="out of memory")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with RunStore.open(tmp_path, RUN) as store:
        for number in range(40):
            store.append(replace(SAMPLE, prompt_id=f"q{number}"))
    return store.folder


def test_a_packed_run_reads_as_before_and_is_smaller(folder: Path) -> None:
    before, size = load_samples(folder), (folder / PLAIN).stat().st_size
    packed = pack(folder)
    content = packed.read_bytes()
    assert load_samples(folder) == before
    assert not (folder / PLAIN).exists()
    assert len(content) < size / 3
    assert pack(folder).read_bytes() == content  # again: nothing to do


def test_a_resumed_run_is_unpacked_and_goes_on(folder: Path, tmp_path: Path) -> None:
    lines = (folder / PLAIN).read_bytes()
    pack(folder)
    with RunStore.open(tmp_path, RUN) as store:
        store.append(replace(SAMPLE, prompt_id="new"))
    assert (folder / PLAIN).read_bytes().startswith(lines)
    assert not (folder / PACKED).exists()
    assert len(load_samples(folder)) == 41


def test_after_a_crash_between_the_two_files_the_plain_one_counts(folder: Path, tmp_path: Path) -> None:
    plain = (folder / PLAIN).read_bytes()
    pack(folder).write_bytes(b"half written")
    (folder / PLAIN).write_bytes(plain)
    assert len(load_samples(folder)) == 40
    with RunStore.open(tmp_path, RUN):
        assert not (folder / PACKED).exists()
    assert (folder / PLAIN).read_bytes() == plain


@pytest.mark.parametrize(
    "damage", [lambda old: old[:-9], lambda old: old[:40] + b"xxxx" + old[44:], lambda old: b""]
)
def test_a_damaged_packed_file_is_refused_by_name(folder: Path, damage: object, tmp_path: Path) -> None:
    packed = pack(folder)
    packed.write_bytes(damage(packed.read_bytes()) or b"x")  # type: ignore[operator]
    with pytest.raises(UserError, match=r"samples\.jsonl\.gz"):
        load_samples(folder)
    with pytest.raises(UserError, match=r"samples\.jsonl\.gz"):
        RunStore.open(tmp_path, RUN)
    assert packed.exists()
    assert not (folder / PLAIN).exists()


def test_the_command_packs_and_refuses_what_is_no_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / PACKED)
    assert main(["pack", str(tmp_path / "absent")]) != 0
    assert "is no run with samples" in capsys.readouterr().err
