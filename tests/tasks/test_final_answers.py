r"""Which final answers count as right: what stands in a \boxed, and which letter a text chooses."""

from __future__ import annotations

import pytest

from bench.tasks.checkers import is_right
from bench.tasks.final_answers import boxed, chosen_letter, is_same_result
from bench.tasks.prompt_files.faults import RowError
from bench.tasks.prompt_files.reader import read_prompt


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{\frac{1}{2}} or rather \boxed {\sqrt{3}}", r"\sqrt{3}"),
        (r"\fbox{7}", "7"),
        (r"\boxed{12} and then \boxed{cut off", "12"),
        ("42", None),
    ],
)
def test_the_last_box_that_closes_counts(text: str, expected: str | None) -> None:
    assert boxed(text) == expected


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("042", "42"),
        ("1,240", "1240"),
        ("0.5", r"\frac{1}{2}"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"-\frac{3}{4}", "-3/4"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\left(3,\frac{\pi}{2}\right)"),
        (r"90^\circ", "90"),
        (r"10\%", "10"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"x = 5", "5"),
        (r"\$18.90", "18.9"),
    ],
)
def test_results_that_are_equal(given: str, wanted: str) -> None:
    assert is_same_result(given, wanted)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("41", "42"), ("", ""), ("x+1", "1+x"), ("1/0", "1"), (r"\frac{1}{3}", "0.33"), ("3,4", "34")],
)
def test_results_that_are_not(given: str, wanted: str) -> None:
    assert not is_same_result(given, wanted)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (B).", "B"),
        ("First I thought the answer is A. In the end the answer is C", "C"),
        ("**Answer: D**", "D"),
        ("So the answer is (b), of course.", "B"),
        ("Answer: option C", "C"),
        (r"Therefore \boxed{\text{(A)}}", "A"),
        ("B", "B"),
        ("(C) because it is red", "C"),
        ("The answer is a number.", None),
        ("The answer is Carbon", None),
        ("A long story about nothing", None),
        ("A. It is red.", "A"),
        ("I do not know", None),
    ],
)
def test_the_letter_that_is_chosen(text: str, letter: str | None) -> None:
    assert chosen_letter(text) == letter


def test_both_kinds_are_checks() -> None:
    assert is_right({"kind": "boxed", "value": "1/2"}, r"It is \boxed{0.5}.") is True
    assert is_right({"kind": "boxed", "value": "1/2"}, "It is 0.5.") is False
    assert is_right({"kind": "choice", "value": "B"}, "The answer is (B)") is True
    assert is_right({"kind": "choice", "value": "B"}, "no idea") is False


def test_both_kinds_may_stand_in_a_question_file() -> None:
    spec = {"kind": "boxed", "value": "3"}
    assert read_prompt({"prompt": "1+2?", "checks": [spec]}, 1).checks == (spec,)
    with pytest.raises(RowError, match="value must be text"):
        read_prompt({"prompt": "1+2?", "checks": [{"kind": "choice", "value": 3}]}, 1)
