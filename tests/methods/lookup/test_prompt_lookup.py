"""Which tokens a lookup copies."""

import pytest

from methods.lookup.prompt_lookup import NgramIndex


@pytest.mark.parametrize(
    ("text", "limit", "copied"),
    [
        ([1, 2, 3, 4, 1, 2], 2, [3, 4]),
        ([1, 2, 3, 4, 1, 2], 9, [3, 4, 1, 2]),
        ([5, 1, 7, 5, 2, 8, 5], 1, [1]),
        ([9, 2, 7, 1, 2, 8, 1, 2], 1, [8]),
        ([1, 2, 3], 4, []),
        ([4, 4], 3, [4]),
    ],
    ids=[
        "what followed the suffix",
        "as much as there is",
        "earliest occurrence wins",
        "longest suffix wins over an earlier short one",
        "no match, no draft",
        "the match may reach into the suffix",
    ],
)
def test_continuation_of_the_longest_suffix(text: list[int], limit: int, copied: list[int]) -> None:
    assert NgramIndex(3, text).continuation(limit) == copied


def test_index_grows_with_the_text() -> None:
    index = NgramIndex(2, [1, 2])
    assert index.continuation(3) == []
    index.extend([3, 1, 2])
    assert index.continuation(3) == [3, 1, 2]
    assert len(index) == 5
