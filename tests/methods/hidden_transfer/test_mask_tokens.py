"""Mask tokens: what they propose is what the model says after a text that ends in masks."""

from __future__ import annotations

import pytest
import torch

from methods.hidden_transfer.mask_tokens import MaskTokens
from tests.methods.small import prompt, random_decoder, run


@pytest.mark.parametrize("two_phase", [False, True])
def test_a_mask_is_a_row_with_the_prompts_mean_embedding(two_phase: bool) -> None:
    decoder, ids = random_decoder(), prompt(9)
    method = MaskTokens(masks=2, tree={"": 2, "0": 1}, two_phase=two_phase)
    method.attach(decoder)
    method.prefill(ids)
    got = method._rows_after_anchor(9) if two_phase else method._pseudo
    embedded = decoder.embed(ids)
    text = torch.cat([embedded, embedded.mean(dim=0).expand(2, -1)])
    decoder.cache.truncate(0)
    expected = decoder.run_layers(text, decoder.placement.chain(0, 11))[-2:]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_masks_of_an_accepted_node_draft_the_next_round() -> None:
    decoder, ids = random_decoder(), prompt(9)
    rounds = []
    for two_phase in (False, True):
        method = MaskTokens(masks=3, tree=None, two_phase=two_phase)
        method.attach(decoder)
        rounds.append(run(method, ids).rounds)
    assert rounds[0] == rounds[1]  # the same proposals, in one pass or in two
    assert max(step.drafted for step in rounds[0]) == 8


def test_a_tree_cannot_be_deeper_than_there_are_masks() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MaskTokens(masks=0, tree=None, two_phase=False)
    method = MaskTokens(masks=1, tree=None, two_phase=False)
    method.attach(random_decoder())
    assert method._tree.depth == 1
