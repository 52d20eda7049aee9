"""What counts as well formed and as right, case by case."""

from typing import Any

import pytest

from bench.tasks.checkers import has_loop, is_right, is_well_formed, overlap, states

PROSE = {"kind": "open"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The wolf lives in the forest.", True),
        ('The passage says: "It has 42 rooms."', True),
        ("The wolf lives in the", False),
        ("the wolf lives in the forest.", False),
        ("Yes.", False),
        ("", False),
        ("The wolf <|user|> lives in the forest.", False),
        ('The passage says: "It has 42 rooms.', False),
        ("The wolf lives lives lives lives in the forest.", False),
        ("It is red. It is red. It is red. It is red.", False),
        ("- The wolf lives in the forest.", False),
    ],
    ids=[
        "sentence",
        "quote",
        "cut off",
        "lower case",
        "too short",
        "empty",
        "special token",
        "open quote",
        "word loop",
        "sentence loop",
        "list instead of prose",
    ],
)
def test_prose_is_complete_sentences_without_loops(answer: str, expected: bool) -> None:
    assert is_well_formed(PROSE, answer) is expected


@pytest.mark.parametrize(
    ("form", "answer", "expected"),
    [
        ("sentence", "In short, the wolf eats deer.", True),
        ("sentence", "The wolf eats deer. It is fast.", False),
        ("list", "- Food: deer.\n- Home: forest.\n- Age: 13 years.", True),
        ("list", "- Food: deer.\n- Home: forest, of course.", False),
        ("list", "The food is deer. The home is the forest.", False),
        ("email", "Dear Anna,\nI want to tell you about it.\nBest wishes from your friend.", True),
        ("email", "I want to tell you about it.\nIt is nice.\nBest wishes.", False),
    ],
    ids=["one", "two sentences", "three points", "two points", "prose for a list", "email", "no greeting"],
)
def test_form_follows_the_request(form: str, answer: str, expected: bool) -> None:
    assert is_well_formed({"kind": "open", "form": form}, answer) is expected


def test_worked_answer_must_close_with_the_number() -> None:
    check = {"kind": "number", "value": 7}
    assert is_well_formed(check, "So 3 + 4 = 7. The answer is 7.")
    assert not is_well_formed(check, "The answer is 7. So 3 + 4 = 7.")


@pytest.mark.parametrize(
    ("check", "answer", "expected"),
    [
        ({"kind": "open"}, "Anything goes here.", None),
        ({"kind": "number", "value": 42}, "So 40 + 2 = 42. The answer is 42.", True),
        ({"kind": "number", "value": 42}, "The answer is 4. The answer is 42.", True),
        ({"kind": "number", "value": 4}, "The answer is 42.", False),
        ({"kind": "number", "value": 4}, "The answer is 4.5.", False),
        ({"kind": "number", "value": 4}, "There are 4 of them.", False),
        ({"kind": "contains", "facts": ["4 rooms"]}, "It has 4  Rooms.", True),
        ({"kind": "contains", "facts": ["4 rooms"]}, "It has 14 rooms.", False),
        ({"kind": "contains", "facts": ["passage [2]", "red"]}, "See passage [2]: red.", True),
        ({"kind": "contains", "facts": ["red"], "forbid": ["blue"]}, "Red or blue.", False),
        ({"kind": "reference", "text": "The old man buys a red hat."}, "The old man buys a red hat.", True),
        ({"kind": "reference", "text": "The old man buys a red hat."}, "The old man buys a blue hat.", False),
        ({"kind": "reference", "text": "The old man buys a red hat."}, "", False),
        ({"kind": "mentions", "groups": [["red", "scarlet"], ["hat"]]}, "A *Scarlet* hat.", True),
        ({"kind": "mentions", "groups": [["red"], ["hat"]]}, "A red cap.", False),
        ({"kind": "mentions", "groups": [["café in lübeck"], ["CO2"]]}, "The Cafe in Lubeck: CO₂", True),
        ({"kind": "mentions", "groups": [["ten"]]}, "Often.", False),
        ({"kind": "mentions", "groups": [["1,240"]]}, "It has 1240 books.", True),
        ({"kind": "last_number", "value": 1150}, "1,054 + 96 = **1,150** books.", True),
        ({"kind": "last_number", "value": 14.5}, "It is $14.50.", True),
        ({"kind": "last_number", "value": 6}, "It is 10-4=6.", True),
        ({"kind": "last_number", "value": 6}, "It is -6.", False),
        ({"kind": "last_number", "value": 6}, "First 6, then 7.", False),
        ({"kind": "last_number", "value": 6}, "I do not know.", False),
    ],
    ids=[
        "open",
        "number",
        "last number counts",
        "prefix is not the number",
        "decimal",
        "no closing",
        "case and space",
        "whole words",
        "brackets",
        "forbidden",
        "same text",
        "one word off",
        "empty",
        "one phrase of each group",
        "a group is missing",
        "accents",
        "part of a word",
        "commas in numbers",
        "bold number with comma",
        "price",
        "a difference is not a sign",
        "sign",
        "a later number counts",
        "no number",
    ],
)
def test_right_means_what_the_spec_says(check: dict[str, Any], answer: str, expected: bool | None) -> None:
    assert is_right(check, answer) is expected


def test_two_repeats_are_no_loop() -> None:
    assert not has_loop("the cat and the cat sat on the mat")
    assert has_loop("so the cat the cat the cat sat")


def test_overlap_counts_order() -> None:
    assert overlap(list("abcd"), list("abcd")) == 1
    assert overlap(list("abcd"), list("dcba")) == 0.25
    assert states("Dear Anna, hello", "anna")


def test_unknown_specs_are_refused() -> None:
    with pytest.raises(ValueError, match="check kind must be"):
        is_right({"kind": "vibes"}, "A nice answer.")
    with pytest.raises(ValueError, match="check form must be"):
        is_well_formed({"kind": "open", "form": "poem"}, "A very nice answer.")
