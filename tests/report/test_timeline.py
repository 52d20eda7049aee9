"""Which token came from which round, and how."""

from __future__ import annotations

import re
from array import array
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.records.model import Arm, Round, Sample, Timing
from bench.records.rounds import Rounds
from bench.records.store import load_run
from bench.report.__main__ import main
from bench.report.questions import question_text
from bench.report.timeline import Origin, find_sample, pieces, timeline, timeline_file, timeline_page
from tests.report.boards import Plan, save, stored
from tests.report.test_build import outline

TINY = (
    Path(__file__).resolve().parents[2] / "results" / "published" / "runs" / "kangaroo-mt_bench-tiny-a5d10ca0"
)


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


def test_the_page_shows_times_and_rejected_tokens_of_every_round() -> None:
    answer = sample(Round(3, 1, 2, 3, "length"), Round(2, 2, 3, 2, "length"))
    answer = replace(answer, timing=Timing(0.1, 1.0, {}, 1.1, array("d", [0.25, 0.75])))
    text = timeline_page(answer, timeline(answer), "kangaroo on q", question="Why <this>?", where="tiny")
    rows = re.findall(r"<tr><td>(\d)</td><td>([\d.]+)</td><td>\d</td><td>\d</td><td>(\d)</td>", text)
    assert rows == [("1", "250.0", "2"), ("2", "750.0", "0")]
    assert "<s>rejected</s> 2" in text
    assert "Why &lt;this&gt;?" in text
    assert "100.0 ms to the first token" in text


def test_without_an_id_the_answers_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(stored(Plan("kangaroo", subtasks=("qa",), questions=2)), tmp_path)
    assert main(["timeline", str(folder)]) == 0
    header, first, second, command = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["prompt", "id", "turn"]
    assert [line.split()[:3] for line in (first, second)] == [["321", "1", "qa"], ["322", "1", "qa"]]
    assert command == f"show one: python -m bench.report timeline {folder} 321 --turn 1"


def test_the_question_is_read_where_the_run_had_it_and_refused_where_it_changed() -> None:
    run = load_run(TINY)
    text, reason = question_text(run, "mt_bench-000", 0)
    assert text.startswith("Help me write about")
    assert reason == ""
    other = replace(run, identity={**run.identity, "questions": "0" * 64})
    assert question_text(other, "mt_bench-000", 0)[1].endswith("is not the file whose questions were asked.")
    assert (
        "cannot be read here: the record names no task" in question_text(replace(run, config={}), "x", 0)[1]
    )


def test_an_unknown_question_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="no answer of its method to 'x', turn 1") as error:
        find_sample(stored(Plan("kangaroo")).samples, "x", 0)
    assert error.value.fix.startswith("choose from: 81, 82")


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    folder = save(stored(Plan("kangaroo")), tmp_path)
    out = tmp_path / "t.html"
    assert main(["timeline", str(folder), "81", "--ids", "--output", str(out)]) == 0
    assert "kangaroo on 81, turn 1" in out.read_text()


def test_the_page_lies_in_the_runs_folder_under_the_name_of_its_answer(tmp_path: Path) -> None:
    folder = save(stored(Plan("kangaroo")), tmp_path)
    assert main(["timeline", str(folder), "81", "--ids"]) == 0
    assert (folder / "timeline-81-turn1.html").is_file()
    assert timeline_file("sam", "a/b c", 2) == "timeline-sam-a_b_c-turn2.html"
