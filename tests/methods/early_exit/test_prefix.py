"""Prefix exits: saved rows are the target's own at any exit, and a round leaves all layers equally long."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import Budget, NoClock
from methods.core.chain import Draft, DraftBuilder, generate_chain
from methods.early_exit.layerskip import LayerSkip
from methods.early_exit.prefix import PrefixExit
from methods.early_exit.watched import WatchedPrefix
from tests.methods.hidden_transfer.transfers import own_ids
from tests.methods.small import CPU, FAMILIES, SHAPE, prompt, random_decoder, scale_writers

DEPTH = SHAPE["num_hidden_layers"]


class Wandering:
    """Drafts at another exit in every round, and checks the cache length of every layer."""

    def __init__(self, decoder: Decoder, lengths: tuple[int, ...]) -> None:
        self._decoder, self._lengths = decoder, lengths
        self.exits: list[int] = []

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        return self._decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        assert self._decoder.cache.lengths == [base] * DEPTH
        turn = len(self.exits)
        self.exits.append(1 + turn % (DEPTH - 1))
        self._exit = PrefixExit(self._decoder, base, self.exits[-1])
        row = self._exit.advance(root)
        chain = DraftBuilder(root, self._lengths[turn % len(self._lengths)], room)
        while chain.has_room:
            row = self._exit.advance(chain.propose(self._decoder.head(row), sampler))
        return chain.finish(exit_layer=self.exits[-1])

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        return self._exit.verify()

    def commit(self, emitted: Tensor, base: int) -> None:
        assert self._decoder.cache.lengths == [base + emitted.numel()] * DEPTH


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", [(3,), (0, 1, 4)], ids=["three drafted", "none, one and four drafted"])
def test_the_exit_may_change_every_round(family: str, lengths: tuple[int, ...]) -> None:
    decoder = random_decoder(family)
    method = Wandering(decoder, lengths)
    with torch.inference_mode():
        sampler = Sampler(Sampling(), CPU, 0)
        got = generate_chain(method, decoder, prompt(), Budget(40, frozenset()), sampler, NoClock())
    assert got.ids[:40] == own_ids(decoder, prompt())
    assert set(method.exits) == set(range(1, DEPTH))


def test_watched_rows_are_those_of_a_plain_pass() -> None:
    decoder, ids = random_decoder(), prompt(17)
    watched = tuple(range(1, DEPTH))
    with torch.inference_mode():
        plain = dict.fromkeys(watched, decoder.embedding)
        decoder.prefill(ids, plain)
        for exit_layer in watched:
            decoder.prefill(ids[:12])
            prefix = WatchedPrefix(decoder, watched, 12, exit_layer)
            for token in ids[12:]:
                prefix.advance(token[None])
            prefix.verify()
            expected = torch.stack([plain[layer][12:] for layer in watched])
            torch.testing.assert_close(prefix.rows(), expected, atol=1e-4, rtol=0)


def test_an_exit_before_idle_layers_accepts_everything() -> None:
    """If the layers after the exit change no row, the draft is what the target says."""
    decoder = random_decoder(tier="static")
    scale_writers(decoder, 4, 0.0)
    method = LayerSkip(exit_layer=4, draft_length=4)
    method.attach(decoder)
    with torch.inference_mode():
        got = method.generate(prompt(), Budget(41, frozenset()), Sampler(Sampling(), CPU, 0), NoClock())
    assert [(round_.accepted, round_.drafted) for round_ in got.rounds] == [(4, 4)] * 8
