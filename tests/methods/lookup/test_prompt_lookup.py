"""Which tokens a lookup copies, and why its draft ends."""

import pytest

from methods.lookup.prompt_lookup import NgramIndex, PromptLookup
from tests.methods.small import prompt, random_decoder


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


@pytest.mark.parametrize(
    ("draft_length", "room", "copied", "stop"),
    [
        (4, 9, 4, "length"),
        (4, 4, 4, "length"),
        (9, 4, 4, "budget"),
        (9, 0, 0, "budget"),
        (20, 20, 10, "match"),
    ],
)
def test_a_draft_says_why_it_ended(draft_length: int, room: int, copied: int, stop: str) -> None:
    """By the method's own length, by the budget, or because no more tokens followed the match."""
    method = PromptLookup(max_ngram=3, draft_length=draft_length)
    method.attach(random_decoder())
    ids = prompt(12)
    ids[-2:] = ids[:2]  # the last two tokens occurred before, and ten more followed
    method.prefill(ids[:-1])
    draft = method.draft(ids[-1:], 11, room, sampler=None)  # type: ignore[arg-type]
    assert (draft.tokens.numel(), draft.stop) == (copied, stop)
