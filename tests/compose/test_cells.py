from collections import Counter
from itertools import pairwise

import pytest

from bench.compose.cells import order_of, williams


def pairs(rows: list[list[int]]) -> Counter[tuple[int, int]]:
    """How often each arm comes right after another within a row."""
    return Counter(pair for row in rows for pair in pairwise(row))


def assert_balanced(rows: list[list[int]], arms: int) -> None:
    places = Counter((place, arm) for row in rows for place, arm in enumerate(row))
    assert set(places.values()) == {len(rows) // arms}
    assert len(places) == arms**2
    follows = pairs(rows)
    assert len(follows) == arms * (arms - 1)
    assert set(follows.values()) == {len(rows) // arms}


@pytest.mark.parametrize("arms", range(2, 15))
def test_each_arm_has_each_place_and_follows_each_other_equally_often(arms: int) -> None:
    rows = williams(arms)
    assert len(rows) == (arms if arms % 2 == 0 else 2 * arms)
    assert_balanced(rows, arms)


@pytest.mark.parametrize("arms", [3, 4, 5, 14])
def test_every_whole_block_of_cells_is_balanced(arms: int) -> None:
    size = len(williams(arms))
    for block in range(3):
        assert_balanced([order_of(7, block * size + cell, arms) for cell in range(size)], arms)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_arms_alternate_whatever_the_seed(seed: int) -> None:
    assert [order_of(seed, cell, 2) for cell in range(4)] == [[0, 1], [1, 0], [0, 1], [1, 0]]


def test_the_seed_chooses_the_order_and_nothing_else_does() -> None:
    cells = range(24)
    first = [order_of(3, cell, 6) for cell in cells]
    assert first == [order_of(3, cell, 6) for cell in cells]
    assert first != [order_of(4, cell, 6) for cell in cells]
    assert first[:6] != first[6:12]


def test_a_single_arm_has_one_order() -> None:
    assert williams(1) == [[0]]
    assert order_of(0, 5, 1) == [0]


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 arm"):
        williams(0)
    with pytest.raises(ValueError, match="must not be negative"):
        order_of(0, -1, 3)
