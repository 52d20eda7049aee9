"""Drafting with sub-layers skipped: which slots it reads, and that it leaves the cache as it was."""

from __future__ import annotations

import pytest
import torch

from bench.errors import UserError
from bench.runtime.decoder import NO_SKIP, Decoder, Skip
from methods.skipping.sublayer_skip import SkippedModel, check_skip, skip_counts, skip_of
from methods.skipping.swift import matchness
from tests.methods.small import FAMILIES, prompt, random_decoder

SKIP = skip_of([1, 3], [2, 3])


def stepped(decoder: Decoder, prompt_ids: torch.Tensor, ids: torch.Tensor, skip: Skip) -> torch.Tensor:
    """Draft logits of known tokens, one at a time after a full prefill."""
    skipped = SkippedModel(decoder)
    decoder.prefill(prompt_ids)
    skipped.start(prompt_ids.numel(), skip)
    logits = torch.cat([skipped.advance(token) for token in ids[:, None]])
    skipped.end()
    return logits


@torch.inference_mode()
def test_a_skipped_attention_writes_nothing_and_the_end_makes_layers_agree() -> None:
    decoder = random_decoder()
    skipped = SkippedModel(decoder)
    decoder.prefill(prompt(10))
    skipped.start(10, SKIP)
    for token in prompt(3, seed=5)[:, None]:
        skipped.advance(token)
    assert decoder.cache.lengths == [13, 10, 13, 10, 13, 13]
    skipped.end()
    assert decoder.cache.length == 10


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_one_pass_over_a_text_says_what_single_steps_say(family: str) -> None:
    """On scratch slots, after committed slots that hold the target's keys and values of the same text."""
    decoder, ids = random_decoder(family), prompt(9, seed=5)
    expected = stepped(decoder, prompt(10), ids, SKIP)
    decoder.prefill(torch.cat([prompt(10), ids, prompt(4, seed=6)]))
    got = SkippedModel(decoder).predict(ids, 10, SKIP)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert decoder.cache.length == 23


@torch.inference_mode()
def test_a_pass_leaves_the_committed_slots_alone() -> None:
    decoder = random_decoder()
    decoder.prefill(prompt(20))
    before = [store[:, :, :20].clone() for store in decoder.cache._stores]
    SkippedModel(decoder).predict(prompt(8), 12, SKIP)
    assert all(torch.equal(a, b[:, :, :20]) for a, b in zip(before, decoder.cache._stores, strict=True))


@torch.inference_mode()
def test_nothing_skipped_is_the_target() -> None:
    decoder, ids = random_decoder(), prompt(9, seed=5)
    full = decoder.head(
        decoder.run_layers(decoder.embed(ids), decoder.placement.chain(0, 9))
    )  # written at slot 0
    decoder.cache.truncate(0)
    torch.testing.assert_close(SkippedModel(decoder).predict(ids, 0, NO_SKIP), full, atol=1e-5, rtol=0)


def test_matchness_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 3.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert matchness(logits.argmax(dim=-1), torch.tensor([1, 0, 2, 1])) == 0.75  # ties go to the lowest id


def test_room_ends_at_the_capacity() -> None:
    decoder = random_decoder()
    with torch.inference_mode():
        decoder.prefill(prompt(250))
    skipped = SkippedModel(decoder)
    assert skipped.has_room(decoder.capacity - 250)
    assert not skipped.has_room(decoder.capacity - 249)


def test_counts_are_sums_over_rounds() -> None:
    assert skip_counts(SKIP, 6, rounds=5) == {"skipped_sublayers": 20, "sublayers": 60}


@pytest.mark.parametrize(
    ("skip", "key"), [(skip_of([6], []), "skip_attention"), (skip_of([], [-1, 2]), "skip_mlp")]
)
def test_layers_that_the_model_lacks_are_named(skip: Skip, key: str) -> None:
    with pytest.raises(UserError, match=rf"{key} names layers \[(6|-1)\], this model has 0\.\.5"):
        check_skip(skip, random_decoder(), "swift")
