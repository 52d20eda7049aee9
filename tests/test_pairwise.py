"""Every pair of settings occurs, in far fewer rows than there are combinations."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.pairwise import pairwise, rotated

FACTORS = [
    (["a", "b"], [1, 2, 3]),
    (["a", "b"], [1, 2, 3], [None, 0.5]),
    ([0, 1, 5, 90], [1, 2, 7, 64, 65, 100], [None, 1, 4, 70, 500]),
    (["x"], [1, 2], [True, False], ["y", "z", "w"]),
    tuple(["on", "off"] for _ in range(10)),
]


@pytest.mark.parametrize("factors", FACTORS)
def test_every_pair_of_levels_occurs(factors: tuple[list[object], ...]) -> None:
    rows = pairwise(*factors)
    assert all(len(row) == len(factors) for row in rows)
    for a, b in combinations(range(len(factors)), 2):
        assert {(row[a], row[b]) for row in rows} == set(product(factors[a], factors[b]))


def test_two_factors_are_the_full_grid() -> None:
    assert sorted(pairwise("ab", [1, 2])) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_many_factors_take_few_rows() -> None:
    assert len(pairwise(*FACTORS[2])) <= 36  # of 120 combinations; 30 at least
    assert len(pairwise(*FACTORS[-1])) <= 12  # of 1,024 combinations


def test_the_same_factors_give_the_same_rows() -> None:
    assert pairwise(*FACTORS[2]) == pairwise(*FACTORS[2])


def test_turns_are_taken_so_that_every_two_settings_meet() -> None:
    rows = rotated("abcd", [1, 2], "xyz")
    assert len(rows) == 8
    assert {row[:2] for row in rows} == set(product("abcd", [1, 2]))
    assert {row[1:] for row in rows} == set(product([1, 2], "xyz"))
    assert len({(case, turn) for case, _, turn in rows}) == 8
