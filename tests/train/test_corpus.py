"""The corpus: seeded, split by hash, distinct, and its own references pass its own checks."""

import json
from itertools import islice, pairwise

import pytest

from bench.tasks.checkers import is_right, is_well_formed
from bench.train.corpus import SUBTASKS, Dialogue, heldout_dialogues, is_held_out, training_dialogues
from bench.train.corpus.atlas_facts import ANIMALS, COUNTRIES, ELEMENTS
from bench.train.corpus.chat_facts import FIELDS, STOPS
from bench.train.corpus.dialogue import contains


@pytest.fixture(scope="module")
def training() -> list[Dialogue]:
    return list(islice(training_dialogues(0), 6000))


@pytest.fixture(scope="module")
def heldout() -> list[Dialogue]:
    return heldout_dialogues(0)


def test_same_seed_same_stream(training: list[Dialogue]) -> None:
    assert list(islice(training_dialogues(0), 50)) == training[:50]
    assert list(islice(training_dialogues(1), 50)) != training[:50]


def test_training_mixes_every_subtask(training: list[Dialogue]) -> None:
    assert {dialogue.subtask for dialogue in training[:200]} == set(SUBTASKS)


def test_no_training_prompt_is_held_out(training: list[Dialogue], heldout: list[Dialogue]) -> None:
    kept = {dialogue.turns[0] for dialogue in heldout}
    assert all(is_held_out(prompt) for prompt in kept)
    assert not any(is_held_out(dialogue.turns[0]) for dialogue in training)


def test_heldout_is_distinct_and_large_enough(heldout: list[Dialogue]) -> None:
    assert [dialogue.subtask for dialogue in heldout] == [name for name in SUBTASKS for _ in range(84)]
    assert len({dialogue.turns[0] for dialogue in heldout}) == len(heldout)
    with pytest.raises(ValueError, match="per_subtask must be at least 1"):
        heldout_dialogues(0, 0)


def test_references_pass_their_own_checks(training: list[Dialogue], heldout: list[Dialogue]) -> None:
    for dialogue in [*training, *heldout]:
        for answer, check in zip(dialogue.answers, dialogue.checks, strict=True):
            assert is_well_formed(check, answer), answer
            assert is_right(check, answer) is True, (check, answer)


def test_an_answer_of_another_prompt_is_rarely_right(heldout: list[Dialogue]) -> None:
    pairs = [
        (first.checks[0], second.answers[0])
        for first, second in pairwise(heldout)
        if first.subtask == second.subtask
    ]
    assert sum(is_right(check, answer) is True for check, answer in pairs) < 0.05 * len(pairs)


def test_checks_are_json(heldout: list[Dialogue]) -> None:
    for dialogue in heldout:
        assert json.loads(json.dumps(dialogue.checks)) == list(dialogue.checks)


def test_only_chat_has_two_turns(training: list[Dialogue]) -> None:
    for dialogue in training:
        assert len(dialogue.turns) == (2 if dialogue.subtask == "mt_bench" else 1)


def test_the_same_prompt_has_one_answer(training: list[Dialogue]) -> None:
    seen: dict[tuple[str, ...], tuple[str, ...]] = {}
    for dialogue in training:
        assert seen.setdefault(dialogue.turns, dialogue.answers) == dialogue.answers


def test_compared_numbers_are_never_equal() -> None:
    for column in ("years", "kilograms", "speed"):
        assert len({getattr(animal, column) for animal in ANIMALS}) == len(ANIMALS)
    assert len({country.millions for country in COUNTRIES}) == len(COUNTRIES)
    assert len({element.number for element in ELEMENTS}) == len(ELEMENTS)
    assert len(set(STOPS.values())) == len(STOPS)


def test_every_topic_has_every_fact() -> None:
    for field in FIELDS:
        assert all(len(facts) == len(field.aspects) for facts in field.topics.values())


@pytest.mark.parametrize(
    ("subtask", "turns", "message"),
    [("poetry", ("Hi",), "subtask must be one of"), ("qa", ("Hi", "Ho"), "one answer and one check")],
    ids=["unknown subtask", "turn without an answer"],
)
def test_dialogue_refuses_bad_records(subtask: str, turns: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dialogue(subtask, turns, ("Hello.",), (contains(["Hello"]),))
