"""Every lossless method gives the target's own greedy ids, whatever the model, prompt, budget or end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.modules import save_module
from bench.runtime.sampling import Sampler
from methods.core.autoregressive import Autoregressive
from methods.core.base import Method
from methods.core.chain import Draft, generate_chain
from methods.early_exit.dynamic_exit import DynamicExit
from methods.early_exit.layerskip import LayerSkip
from methods.kangaroo.draft import Kangaroo
from methods.lookup.lookahead import Lookahead
from methods.lookup.prompt_lookup import PromptLookup
from methods.lookup.suffix_automaton import SamDecoding
from methods.lookup.token_recycling import TokenRecycling
from tests.methods.early_exit.test_dynamic_exit import DEFAULTS as DEL
from tests.methods.hamburger.hamburgers import saved_verified as random_hamburger
from tests.methods.hidden_transfer.transfers import saved as random_hidden_transfer
from tests.methods.kangaroo.test_kangaroo_tree import saved as random_kangaroo_tree
from tests.methods.m2r2.test_m2r2 import saved as random_m2r2
from tests.methods.medusa.test_medusa import saved as random_medusa
from tests.methods.skipping.skips import draft_verify, swift
from tests.methods.small import FAMILIES, prompt, random_decoder, run
from tests.methods.two_model.test_two_model import saved as random_two_model


def random_kangaroo(decoder: Decoder, folder: Path, threshold: float = 0.0) -> Kangaroo:
    """Kangaroo with an adapter of random weights: it accepts next to nothing."""
    method = Kangaroo(weights=str(folder), exit_layer=2, draft_length=4, threshold=threshold)
    torch.manual_seed(1)
    save_module(
        folder, method.trainer().new_module(decoder).state_dict(), {"method": "kangaroo", "exit_layer": 2}
    )
    return method


METHODS: dict[str, Callable[[Decoder, Path], Method]] = {
    "prompt_lookup": lambda decoder, folder: PromptLookup(max_ngram=3, draft_length=10),
    "sam": lambda decoder, folder: SamDecoding(draft_length=39, growth=4),
    "token_recycling": lambda decoder, folder: TokenRecycling(candidates=8, tree=None),
    "two_model": lambda decoder, folder: random_two_model(decoder, folder),
    "lookahead": lambda decoder, folder: Lookahead(ngram=5, window=7, guesses=7),
    "lookahead-narrow": lambda decoder, folder: Lookahead(ngram=3, window=1, guesses=2),
    "layerskip-shallow": lambda decoder, folder: LayerSkip(exit_layer=1, draft_length=3),
    "layerskip-deep": lambda decoder, folder: LayerSkip(exit_layer=5, draft_length=6),
    "layerskip-fsm": lambda decoder, folder: LayerSkip(exit_layer=4, draft_length=3, policy="fsm"),
    "layerskip-dv": lambda decoder, folder: LayerSkip(exit_layer=5, draft_length=8, policy="dv"),
    "del": lambda decoder, folder: DynamicExit(**DEL),
    "del-to-length": lambda decoder, folder: DynamicExit(**{**DEL, "stop": False}),
    "hidden_transfer": lambda decoder, folder: random_hidden_transfer(decoder, folder),
    "m2r2": lambda decoder, folder: random_m2r2(decoder, folder),
    "medusa": lambda decoder, folder: random_medusa(decoder, folder, tree="mc_sim_7b_63"),
    "medusa-chain": lambda decoder, folder: random_medusa(decoder, folder, tree="chain"),
    "kangaroo": lambda decoder, folder: random_kangaroo(decoder, folder),
    "kangaroo_tree": lambda decoder, folder: random_kangaroo_tree(decoder, folder),
    "hamburger_verified": lambda decoder, folder: random_hamburger(decoder, folder),
    "kangaroo-cautious": lambda decoder, folder: random_kangaroo(decoder, folder, threshold=0.3),
    "draft_verify": lambda decoder, folder: draft_verify(threshold=0.02),
    "swift": lambda decoder, folder: swift(threshold=0.02),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_greedy_ids_are_the_targets_own(name: str, family: str, tmp_path: Path) -> None:
    decoder = random_decoder(family)
    baseline, method = Autoregressive(), METHODS[name](decoder, tmp_path)
    baseline.attach(decoder)
    method.attach(decoder)
    for length in (1, 2, 17):
        expected = run(baseline, prompt(length)).ids
        assert run(method, prompt(length)).ids == expected


@pytest.mark.parametrize("new", [1, 2, 3, 7])
@pytest.mark.parametrize("name", METHODS)
def test_budget_is_met_exactly(name: str, new: int, tmp_path: Path) -> None:
    decoder = random_decoder()
    method = METHODS[name](decoder, tmp_path)
    method.attach(decoder)
    got = run(method, prompt(), new=new)
    assert len(got.ids) == new == 1 + sum(one.emitted for one in got.rounds)


@pytest.mark.parametrize("name", METHODS)
def test_output_ends_behind_the_end_token_even_inside_a_round(name: str, tmp_path: Path) -> None:
    decoder = random_decoder()
    baseline, method = Autoregressive(), METHODS[name](decoder, tmp_path)
    baseline.attach(decoder)
    method.attach(decoder)
    full = run(baseline, prompt()).ids
    for token in set(full[:12]):
        end = frozenset({token})
        got = run(method, prompt(), eos=end)
        assert got.ids == full[: full.index(token) + 1]


@pytest.mark.parametrize("name", METHODS)
def test_cache_holds_all_but_the_newest_token_after_a_generation(name: str, tmp_path: Path) -> None:
    decoder = random_decoder()
    method = METHODS[name](decoder, tmp_path)
    method.attach(decoder)
    got = run(method, prompt(9), new=20)
    assert decoder.cache.length == 9 + len(got.ids) - 1


class Scripted:
    """A chain method whose drafts are given: the target's own future, or anything but.

    Args:
        decoder: The target.
        future: The target's greedy continuation.
        right: How many tokens of each draft are right before one is wrong.
        length: Tokens per draft.
    """

    def __init__(self, decoder: Decoder, future: tuple[int, ...], right: int, length: int) -> None:
        self._decoder, self._future, self._right, self._length = decoder, future, right, length

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._prompt = prompt_ids.numel()
        return self._decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        known = base - self._prompt + 1
        tokens = list(self._future[known : known + min(self._length, room)])
        tokens[self._right :] = [(token + 1) % 96 for token in tokens[self._right :]]
        return Draft(torch.tensor(tokens, dtype=torch.int64), "length")

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        return self._decoder.step(torch.cat([root, draft.tokens]), base)

    def commit(self, emitted: Tensor, base: int) -> None:
        return None


@pytest.mark.parametrize(
    ("right", "per_round"),
    [(0, 1), (2, 3), (4, 5)],
    ids=["all wrong: plain decoding", "two right", "all right: four and a bonus"],
)
def test_rounds_are_counted_as_predicted(right: int, per_round: int) -> None:
    decoder = random_decoder()
    baseline = Autoregressive()
    baseline.attach(decoder)
    future = run(baseline, prompt(), new=80).ids
    method = Scripted(decoder, future, right, length=4)

    class Whole:
        def attach(self, decoder: Decoder) -> None: ...
        def exactness(self, sampler: Sampler) -> str: ...
        def generate(self, prompt_ids, budget, sampler, clock):  # noqa: ANN001, ANN202
            return generate_chain(method, decoder, prompt_ids, budget, sampler, clock)

    got = run(Whole(), prompt(), new=1 + 30)
    assert got.ids == future[:31]
    assert [one.emitted for one in got.rounds] == [per_round] * (30 // per_round)
