"""Positions and masks of chains and trees, against a definition written out slot by slot."""

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.rows import Placement
from tests.pairwise import pairwise

CAPACITY = 200


def placement(groups: int = 1, window: int | None = None) -> Placement:
    """A placement whose cosine table holds the position itself."""
    table = torch.arange(float(CAPACITY))[:, None, None]
    return Placement(table, -table, groups, window)


def visible(mask: Tensor | None) -> list[list[bool]]:
    assert mask is not None
    assert set(mask.flatten().tolist()) <= {0.0, float("-inf")}
    return (mask == 0).tolist()


def chain_definition(base: int, count: int, window: int | None) -> list[list[bool]]:
    """Row r at position base + r sees slot s if s is not later, and less than `window` earlier."""
    return [
        [s <= q and (window is None or q - s < window) for s in range(base + count)]
        for q in range(base, base + count)
    ]


@pytest.mark.parametrize(
    ("base", "count", "window"),
    pairwise([0, 1, 5, 90], [1, 2, 7, 64, 65, 100], [None, 1, 4, 70, 500]),
)
def test_chain_rows_see_what_came_before(base: int, count: int, window: int | None) -> None:
    rows = placement(window=window).chain(base, count)
    assert (rows.base, rows.writes) == (base, count)
    assert rows.cos[:, 0, 0].tolist() == list(range(base, base + count))
    assert rows.sin[:, 0, 0].tolist() == [-p for p in range(base, base + count)]
    expected = chain_definition(base, count, window)
    if rows.mask is None:
        assert (rows.is_causal and base == 0) or all(all(row) for row in expected)
        assert not rows.is_causal or window is None or count <= window
    else:
        assert visible(rows.mask) == expected


def test_one_row_needs_no_mask() -> None:
    assert placement().chain(17, 1).mask is None


def test_a_whole_prompt_needs_no_mask() -> None:
    rows = placement().chain(0, 120)
    assert rows.mask is None
    assert rows.is_causal


def test_a_mask_repeats_once_per_query_head_of_a_group() -> None:
    assert visible(placement(groups=3).chain(2, 4).mask) == chain_definition(2, 4, None) * 3
    sees = torch.tensor([[True, False], [True, True]])
    assert (
        visible(placement(groups=2).tree(1, torch.tensor([0, 1]), sees).mask)
        == [
            [True, True, False],
            [True, True, True],
        ]
        * 2
    )


DEPTHS = torch.tensor([0, 1, 1, 2, 3])
SEES = torch.tensor(
    [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 1, 1, 0], [1, 0, 1, 1, 1]], dtype=torch.bool
)


@pytest.mark.parametrize("window", [None, 1, 2, 3, 100])
def test_tree_rows_see_the_prefix_and_their_own_path(window: int | None) -> None:
    base = 4
    rows = placement(window=window).tree(base, DEPTHS, SEES)
    positions = [base + int(depth) for depth in DEPTHS]
    slots = [*range(base), *positions]  # position of every visible slot
    seen = torch.cat([torch.ones(5, base, dtype=torch.bool), SEES], dim=1).tolist()
    assert rows.cos[:, 0, 0].tolist() == positions
    assert visible(rows.mask) == [
        [seen[r][s] and (window is None or positions[r] - slots[s] < window) for s in range(len(slots))]
        for r in range(5)
    ]


def test_read_only_rows_have_no_column() -> None:
    rows = placement().tree(2, DEPTHS, SEES[:, :3], writes=3)
    assert rows.writes == 3
    assert visible(rows.mask) == [[True, True, *row] for row in SEES[:, :3].tolist()]


@pytest.mark.parametrize("window", [None, 3])
def test_a_tree_may_be_run_in_parts(window: int | None) -> None:
    whole = placement(groups=2, window=window).tree(4, DEPTHS, SEES)
    part = placement(groups=2, window=window).tree(4, DEPTHS, SEES, first=2)
    assert (part.base, part.writes) == (6, 3)
    assert torch.equal(part.cos, whole.cos[2:])
    assert visible(part.mask) == visible(whole.mask)[2:5] * 2


def test_a_tree_may_start_an_empty_cache() -> None:
    assert visible(placement().tree(0, DEPTHS, SEES).mask) == SEES.tolist()


def test_visibility_must_cover_rows_by_written_rows() -> None:
    with pytest.raises(ValueError, match=r"sees must have shape \(5, 3\), got \(5, 5\)"):
        placement().tree(2, DEPTHS, SEES, writes=3)


def test_the_last_slot_is_usable() -> None:
    assert placement().chain(CAPACITY - 1, 1).cos.item() == CAPACITY - 1
    assert placement().tree(CAPACITY - 5, DEPTHS, SEES).writes == 5


def test_what_does_not_fit_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match="needs 201 positions, the cache holds 200") as caught:
        placement().chain(CAPACITY - 1, 2)
    assert "lower max_new_tokens" in caught.value.fix
    with pytest.raises(UserError, match="needs 201 positions"):
        placement().tree(CAPACITY - 4, DEPTHS, SEES)


def test_rotation_gives_consecutive_positions() -> None:
    cos, sin = placement().rotation(7, 3)
    assert cos.flatten().tolist() == [7, 8, 9]
    assert sin.flatten().tolist() == [-7, -8, -9]
