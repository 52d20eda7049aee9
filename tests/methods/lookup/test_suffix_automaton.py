"""Which match the suffix automaton finds, how many states it takes, and how much is copied."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.prove.targets import as_decoder, random_model
from bench.runtime.loading import RuntimeOptions
from methods.lookup.suffix_automaton import SamDecoding, SuffixAutomaton
from tests.methods.small import prompt, random_decoder, run


def longest_match(ids: list[int]) -> tuple[int, int]:
    """`SuffixAutomaton.match` by brute force: the longest suffix that ended earlier, and its earliest end."""
    for length in range(len(ids) - 1, 0, -1):
        for end in range(length, len(ids)):
            if ids[end - length : end] == ids[-length:]:
                return length, end
    return 0, 0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ([1, 2, 3, 4, 1, 2], (2, 2)),
        ([1, 2, 3], (0, 0)),
        ([5, 1, 7, 5, 2, 8, 5], (1, 1)),
        ([9, 2, 7, 1, 2, 8, 1, 2], (2, 5)),
        ([4, 4, 4], (2, 2)),
        ([], (0, 0)),
    ],
    ids=["a suffix seen before", "all new", "earliest occurrence", "longest wins", "overlap", "no text"],
)
def test_longest_earlier_match(text: list[int], match: tuple[int, int]) -> None:
    assert SuffixAutomaton(text).match == match


@settings(derandomize=True, deadline=None, database=None)
@given(st.lists(st.integers(0, 2), max_size=40))
def test_the_match_equals_brute_force_after_every_token(ids: list[int]) -> None:
    text = SuffixAutomaton()
    for count, token in enumerate(ids, start=1):
        text.extend([token])
        assert text.match == longest_match(ids[:count])
    assert len(text._next) <= max(2, 2 * len(ids))
    assert len(text) == len(ids)


@pytest.mark.parametrize(
    ("growth", "draft_length", "room", "copied"),
    [(4, 39, 100, 8), (4, 5, 100, 5), (4, 39, 3, 3), (0.5, 39, 100, 1), (100, 39, 100, 10)],
    ids=["by match", "by the cap", "by the budget", "less than matched", "all there is"],
)
def test_a_longer_match_gets_a_longer_draft(growth: float, draft_length: int, room: int, copied: int) -> None:
    method = SamDecoding(draft_length=draft_length, growth=growth)
    method.attach(random_decoder())
    ids = prompt(12)
    ids[-2:] = ids[:2]  # the last two tokens occurred before, and ten more followed
    method.prefill(ids[:-1])
    draft = method.draft(ids[-1:], 11, room, sampler=None)  # type: ignore[arg-type]
    assert draft.tokens.tolist() == ids[2 : 2 + copied].tolist()


def test_a_text_that_repeats_itself_takes_few_passes() -> None:
    options = RuntimeOptions(torch.device("cpu"), torch.float32, 128)
    model = random_model("llama", 4, options, vocabulary=8, seed=0)  # soon repeats itself
    decoder = as_decoder(model, options)
    method = SamDecoding(draft_length=39, growth=4)
    method.attach(decoder)
    got = run(method, prompt(3) % 8, new=100)
    assert len(got.rounds) < 70


@pytest.mark.parametrize(("draft_length", "growth"), [(0, 4), (5, 0)])
def test_settings_that_draft_nothing_are_refused(draft_length: int, growth: float) -> None:
    with pytest.raises(ValueError, match="draft_length of at least 1 and growth above 0"):
        SamDecoding(draft_length=draft_length, growth=growth)
