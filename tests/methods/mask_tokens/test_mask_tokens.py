"""Mask tokens: which tree is drafted, what the placeholders see, and how they move."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import traits_of
from methods.core.trees import Tree
from methods.mask_tokens.draft import MaskTokens, layout, likely_paths
from tests.methods.skipping.skips import yaml_of
from tests.methods.small import CPU, FAMILIES, prompt, random_decoder, run


def mask_tokens(decoder: Decoder, **changes: Any) -> MaskTokens:
    method = MaskTokens(**{**yaml_of("mask_tokens"), **changes})
    method.attach(decoder)
    return method


CHANCES = [[0.5, 0.3, 0.1], [0.8, 0.15, 0.01]]
TOKENS = [[7, 8, 9], [3, 7, 5]]


@pytest.mark.parametrize("count", range(1, 13))
def test_the_tree_holds_the_likeliest_paths(count: int) -> None:
    below = [(a, b) for a, b in product(range(3), range(3)) if TOKENS[0][a] != TOKENS[1][b]]
    products = {(a,): CHANCES[0][a] for a in range(3)}
    products |= {(a, b): CHANCES[0][a] * CHANCES[1][b] for a, b in below}
    best = sorted(products, key=lambda path: -products[path])[:count]
    assert sorted(likely_paths(CHANCES, TOKENS, 4, count)) == sorted(best)


def test_a_token_is_not_drafted_after_itself() -> None:
    paths = likely_paths(CHANCES, TOKENS, 7, 20)
    assert (0,) not in paths  # 7 after the root 7
    assert (1, 1) in paths
    assert len(paths) == 2 + 2 * 3


def test_the_worked_round_of_the_first_page() -> None:
    assert likely_paths([[0.5, 0.3], [0.8, 0.1]], [[1, 2], [3, 4]], 0, 3) == ((0,), (0, 0), (1,))


def test_a_mask_sees_what_its_token_sees_and_the_tokens_earlier_masks() -> None:
    offsets, sees = layout(Tree.of_paths([(0,), (1,)]), 2)
    assert offsets.tolist() == [0, 1, 1, 1, 2, 2, 2, 3, 3]
    rows = {"root": 0, "second child": 2, "its masks": (5, 8)}
    assert sees[rows["root"]].nonzero()[:, 0].tolist() == [0]
    assert sees[8].nonzero()[:, 0].tolist() == [0, 2, 5, 8]
    assert sees[5].nonzero()[:, 0].tolist() == [0, 2, 5]


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_the_accepted_node_are_those_of_a_pass_after_it(family: str) -> None:
    decoder = random_decoder(family)
    method = mask_tokens(decoder, update=0.0)  # the mask stays, so that both passes have the same
    sampler = Sampler(Sampling(), CPU, 0)
    with torch.inference_mode():
        root = sampler.pick(method.prefill(prompt()))
        draft = method.draft(root, 12, 20, 200, sampler)
        method.verify(draft, 12)
        path = draft.tree.route(draft.tree.children[0][-1])
        decoder.cache.truncate(12)
        method.commit(path, 12)
        probed = method._probed
        decoder.step(draft.tokens[list(path)], 12)
        alone = method._after_prompt(14)
    assert probed is not None
    torch.testing.assert_close(probed, alone, atol=1e-4, rtol=1e-4)
    assert decoder.cache.length == 14


def test_the_mask_is_the_prompts_mean_and_moves_towards_accepted_tokens() -> None:
    decoder = random_decoder()
    method, ids = mask_tokens(decoder, update=0.25), prompt(5)
    with torch.inference_mode():
        method.prefill(ids)
        mask = decoder.embed(ids).mean(dim=0, keepdim=True)
        torch.testing.assert_close(method._mask, mask)
        method._tokens = torch.tensor([3, 9, 4])
        method.commit((0, 2), 5)
        for token in (3, 4):
            mask = 0.75 * mask + 0.25 * decoder.embed(torch.tensor([token]))
    torch.testing.assert_close(method._mask, mask)


@pytest.mark.parametrize(("masks", "block"), [(1, 10), (2, 30), (3, 9)])
def test_a_pass_has_no_more_rows_than_the_block(masks: int, block: int) -> None:
    decoder = random_decoder()
    method, rows, layers = mask_tokens(decoder, masks=masks, block=block), list[int](), decoder.run_layers

    def counted(hidden: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        rows.append(hidden.shape[0])
        return layers(hidden, *arguments, **named)

    decoder.run_layers = counted  # type: ignore[method-assign]
    got = run(method, prompt(), new=30)
    assert max(rows[1:]) == block // (masks + 1) * (masks + 1)
    assert max(round_.depth for round_ in got.rounds) <= masks
    assert {round_.drafted for round_ in got.rounds[:-3]} == {block // (masks + 1) - 1}


def test_a_model_that_repeats_one_token_gets_nothing_accepted() -> None:
    """Its masks say that token as well, and it is left out after itself."""
    decoder = random_decoder(tier="static")
    with torch.inference_mode():
        decoder.embedding.copy_(decoder.embedding[:1].expand_as(decoder.embedding))
    got = run(mask_tokens(decoder), prompt(), new=20)
    assert len(set(got.ids)) == 1
    assert {round_.accepted for round_ in got.rounds} == {0}


@pytest.mark.parametrize("key", ["masks", "block", "update"])
def test_settings_out_of_range_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        MaskTokens(**{**yaml_of("mask_tokens"), key: -1})


def test_it_says_that_it_is_a_reimplementation() -> None:
    assert traits_of(mask_tokens(random_decoder())).is_reimplementation
