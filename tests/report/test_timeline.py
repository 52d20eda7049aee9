"""Which token came from which round, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import UserError
from bench.records.model import Arm, Round, Sample, Timing
from bench.records.rounds import Rounds
from bench.report.__main__ import main
from bench.report.timeline import Origin, find_sample, pieces, timeline, timeline_page
from tests.report.boards import Plan, save, stored
from tests.report.test_build import outline


def sample(*rounds: Round) -> Sample:
    count = 1 + sum(round_.emitted for round_ in rounds)
    timing = Timing(0.1, 1.0, {}, 1.1)
    return Sample(
        "q", "qa", 0, 0, Arm.METHOD, 0, ids=tuple(range(count)), rounds=Rounds.of(rounds), timing=timing
    )


@pytest.mark.parametrize(
    ("round_", "origins"),
    [
        (Round(3, 3, 4, 3, "length"), ["accepted", "accepted", "accepted", "bonus"]),
        (Round(3, 1, 2, 3, "length"), ["accepted", "corrected"]),
        (Round(3, 0, 1, 3, "length"), ["corrected"]),
        (Round(0, 0, 1, 0, "none"), ["plain"]),
        (Round(3, 3, 2, 3, "length"), ["accepted", "accepted"]),  # the harness cut the answer here
        (Round(9, 2, 3, 3, "length"), ["accepted", "accepted", "corrected"]),  # a tree of depth 3
    ],
)
def test_a_rounds_tokens_by_origin(round_: Round, origins: list[str]) -> None:
    first, *tokens = timeline(sample(round_))
    assert (first.round, first.origin) == (0, Origin.FIRST)
    assert [token.origin.value for token in tokens] == origins
    assert {token.round for token in tokens} == {1}


def test_a_text_is_needed_for_every_token() -> None:
    with pytest.raises(ValueError, match="need a text for each of 1 tokens, got 2"):
        timeline(sample(), ["a", "b"])


def test_pieces_add_up_to_the_text_and_wait_for_whole_characters() -> None:
    raw = "né!".encode()

    def decode(ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    assert pieces(list(raw), decode) == ["n", "", "é", "!"]


def test_the_page_parses_and_escapes_the_text() -> None:
    answer = sample(Round(1, 1, 2, 1, "length", exit_layer=3))
    text = timeline_page(answer, timeline(answer, ["<b>", "\n", "&"]), "kangaroo on q")
    page = outline(text)
    assert not page.names & {"b", "script"}
    assert "&lt;b&gt;" in text
    assert "round 1, bonus, id 2" in text


def test_an_unknown_question_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="no answer of its method to 'x', turn 1") as error:
        find_sample(stored(Plan("kangaroo")).samples, "x", 0)
    assert error.value.fix.startswith("choose from: 81, 82")


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    folder = save(stored(Plan("kangaroo")), tmp_path)
    out = tmp_path / "t.html"
    assert main(["timeline", str(folder), "81", "--ids", "--output", str(out)]) == 0
    assert "kangaroo on 81, turn 1" in out.read_text()
