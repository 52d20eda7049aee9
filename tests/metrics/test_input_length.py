"""Speedup and acceptance by the length of the prompt: which turns a range holds, and what it says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.metrics.input_length import by_input_length, filled_edges, prompt_lengths, spans_lengths
from bench.records.model import Arm, Round, Run, Sample, Timing
from bench.records.rounds import Rounds
from bench.show.length_table import length_block

TOKENS = 11


def turn(question: int, number: int, arm: Arm, tokens: int, per_token_s: float, **given: Any) -> Sample:
    """An answer of 11 tokens; the method's rounds emit two each."""
    emitted = 1 if arm is Arm.BASELINE else 2
    rounds = [Round(emitted - 1, emitted - 1, emitted, emitted - 1, "length")] * ((TOKENS - 1) // emitted)
    timing = Timing(0.1, per_token_s * (TOKENS - 1), {}, 0.1)
    where = (f"q{question}", "qa", number, given.pop("repeat", 0), arm, 0)
    made = {
        "prompt_tokens": tokens,
        "ids": tuple(range(TOKENS)),
        "rounds": Rounds.of(rounds),
        "timing": timing,
    }
    return Sample(*where, **made | given)


def conversation(question: int, lengths: tuple[int, ...], speedups: tuple[float, ...]) -> list[Sample]:
    """A question in both arms, a turn per length; the method decodes each so many times as fast."""
    made = []
    for number, (tokens, speed) in enumerate(zip(lengths, speedups, strict=True)):
        made.append(turn(question, number, Arm.BASELINE, tokens, 1.0))
        made.append(turn(question, number, Arm.METHOD, tokens, 1.0 / speed))
    return made


TALKS = [sample for q in range(12) for sample in conversation(q, (50, 900), (2.0, 4.0))]


def test_every_turn_falls_into_the_range_of_its_prompt() -> None:
    short, long = by_input_length(TALKS, [100])
    assert (short.name, long.name) == ("under 100", "100 and more")
    assert (short.turns, short.questions, long.turns, long.questions) == (12, 12, 12, 12)
    assert (short.median_tokens, long.median_tokens) == (50, 900)
    assert short.speedup.decode is not None
    assert long.speedup.decode is not None
    assert short.speedup.decode.estimate == pytest.approx(2.0)
    assert long.speedup.decode.estimate == pytest.approx(4.0)  # second turns alone are whole questions here
    assert short.acceptance_length == pytest.approx(TOKENS / (1 + 5))


def test_turns_of_a_question_within_one_range_are_one_question() -> None:
    (whole,) = by_input_length(TALKS, [])
    assert (whole.name, whole.turns, whole.questions) == ("all", 24, 12)
    assert whole.speedup.decode is not None
    assert whole.speedup.decode.estimate == pytest.approx(2 * 10 / (10 / 2 + 10 / 4))
    assert whole.speedup.prompts == 12


def test_an_edge_belongs_to_the_range_that_it_begins() -> None:
    samples = [sample for q in range(3) for sample in conversation(q, (128,), (2.0,))]
    assert [part.name for part in by_input_length(samples, [64, 128, 256])] == ["128 to 255"]


def test_only_questions_that_are_complete_in_both_arms_count() -> None:
    broken = [*TALKS, turn(99, 0, Arm.BASELINE, 50, 1.0)]
    assert by_input_length(broken, [100])[0].questions == 12


def test_lengths_are_those_that_the_baseline_read() -> None:
    samples = [turn(1, 0, Arm.METHOD, 70, 1.0), turn(1, 0, Arm.BASELINE, 60, 1.0)]
    assert prompt_lengths(samples) == {("q1", 0): 60}


def test_a_given_acceptance_is_not_shown() -> None:
    assert by_input_length(TALKS, [100], is_cost_only=True)[0].acceptance_length is None


@pytest.mark.parametrize("edges", [[2, 1], [0, 1], [3, 3]])
def test_edges_must_ascend(edges: list[int]) -> None:
    with pytest.raises(ValueError, match="edges must ascend"):
        by_input_length(TALKS, edges)


@pytest.mark.parametrize(
    ("counts", "edges"),
    [
        ({50: 20}, ()),
        ({50: 20, 200: 20}, (128,)),
        ({50: 20, 200: 3, 600: 20}, (512,)),  # three questions join the shorter range
        ({50: 3, 200: 20, 600: 20}, (512,)),  # so do the shortest, with the next
        ({50: 20, 600: 4, 1500: 8}, (512,)),  # together they are enough
        ({50: 9, 600: 9}, ()),
    ],
)
def test_small_ranges_are_joined(counts: dict[int, int], edges: tuple[int, ...]) -> None:
    lengths = {(f"{tokens}-{q}", 0): tokens for tokens, count in counts.items() for q in range(count)}
    assert filled_edges(lengths) == edges


def test_a_table_by_length_needs_lengths_that_differ() -> None:
    assert spans_lengths(by_input_length(TALKS))
    near = [sample for q in range(12) for sample in conversation(q, (100, 200), (2.0, 4.0))]
    assert len(by_input_length(near)) == 2
    assert not spans_lengths(by_input_length(near))
    assert not spans_lengths(by_input_length(TALKS, []))


def run(**given: Any) -> Run:
    return Run("kangaroo-x-0", "kangaroo", "jsonl", "tiny", {"method": {}}, {}, **given)


def test_a_run_prints_it_below_its_table() -> None:
    lines = length_block(run(), TALKS).splitlines()
    assert lines[:2] == ["", ""]
    assert lines[2].split("  ")[0] == "prompt tokens"
    assert lines[3].startswith("under 512")
    assert "2.00x" in lines[3]
    assert lines[4].startswith("512 and more")
    assert length_block(run(), TALKS[:8]) == ""


def test_a_run_of_several_prints_a_row_per_method() -> None:
    parts = {
        label: {"name": label, "method": {}, "method_weights": None, "labels": {}} for label in ("sam", "del")
    }
    shared = [sample for sample in TALKS if sample.arm is Arm.BASELINE]
    own = [sample for sample in TALKS if sample.arm is Arm.METHOD]
    samples = [*shared, *(_of(sample, label) for label in parts for sample in own)]
    lines = length_block(run(methods=parts), samples).splitlines()
    assert lines[2].startswith("speedup, length by prompt tokens  under 512 (12)")
    assert [line.split()[0] for line in lines[3:]] == ["sam", "del"]
    assert "2.00x, 1.83" in lines[3]
    assert "4.00x, 1.83" in lines[3]


def _of(sample: Sample, label: str) -> Sample:
    return replace(sample, method=label)
