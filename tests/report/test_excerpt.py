"""The README's excerpt: made from records, replaced in place, and equal to what the records say."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import UserError
from bench.report.__main__ import main
from bench.report.excerpt import excerpt, replace_block, stored_block
from tests.command import mistake_lines
from tests.report.boards import BOARD, save, stored

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    for plan in (BOARD[0], BOARD[7], BOARD[8]):  # lossless, lossy, not ranked
        save(stored(plan), root)
    return root


@pytest.fixture(scope="module")
def block(results: Path) -> str:
    return excerpt(results)


def test_methods_stand_with_speedup_interval_and_verdict(block: str) -> None:
    rows = [line for line in block.splitlines() if line.startswith("| 1 ")]
    assert [row.split(" | ")[1:3] for row in rows] == [
        ["kangaroo", "the model's own"],
        ["hamburger", "lossy"],
    ]
    assert all(row.count("[") == 1 for row in rows)
    assert rows[0].endswith("| exact 144 of 144 |")


def test_what_has_no_rank_is_named_with_the_reason(block: str) -> None:
    assert "Not ranked: draft_verify (the A/A control fails" in block


def test_the_two_figures_are_named_where_the_leaderboard_writes_them(results: Path, block: str) -> None:
    shown = [line.split("](")[1].removesuffix(")") for line in block.splitlines() if line.startswith("![")]
    assert [name.rsplit("-", 1)[1] for name in shown] == ["overall.png", "acceptance.png"]
    assert all(name.startswith(f"{results.as_posix()}/figures/vicuna_7b-") for name in shown)


def test_a_block_is_replaced_and_nothing_else(block: str) -> None:
    old = block.replace("kangaroo", "old name")
    assert replace_block(f"before\n{old}\nafter\n", block) == f"before\n{block}\nafter\n"
    parsed = stored_block(f"before\n{block}\nafter\n")
    assert parsed is not None
    assert parsed[1] == block


@pytest.mark.parametrize("text", ["no block", "two"])
def test_a_file_needs_one_block(text: str, block: str) -> None:
    with pytest.raises(UserError, match="it must hold one"):
        replace_block(text.replace("two", f"{block}\n{block}"), block)


def test_a_file_that_is_not_there_takes_two_lines(
    tmp_path: Path, block: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.report.excerpt.excerpt", lambda results: block)
    assert main(["excerpt", str(tmp_path), "--into", str(tmp_path / "README.md")]) == 2
    assert len(mistake_lines(capsys.readouterr().err)) == 2
    (tmp_path / "README.md").write_text(f"# Title\n\n{block.replace('exact', 'old')}\n")
    assert main(["excerpt", str(tmp_path), "--into", str(tmp_path / "README.md")]) == 0
    assert (tmp_path / "README.md").read_text() == f"# Title\n\n{block}\n"


def test_the_readme_says_what_the_records_say(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = stored_block((ROOT / "README.md").read_text(encoding="utf-8"))
    if parsed is None:
        pytest.skip("the README holds no excerpt")
    monkeypatch.chdir(ROOT)
    folder, text = parsed
    assert text == excerpt(folder), f"run: python -m bench.report excerpt {folder} --into README.md"
    shown = [line.split("](")[1].removesuffix(")") for line in text.splitlines() if line.startswith("![")]
    assert all((ROOT / name).is_file() for name in shown)
