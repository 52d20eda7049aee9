"""CLaSp and KnapSpec: the dynamic programmes against all sets, and branches that do not see each other."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.costs import SublayerCosts, measure_sublayers
from bench.runtime.decoder import Skip
from methods.skipping.branches import Branches, similarity
from methods.skipping.clasp import Clasp, layers_to_skip
from methods.skipping.knapspec import Knapsack, KnapSpec
from tests.methods.small import prompt, random_decoder, run

LAYERS, WIDTH = 6, 16
SETTINGS: dict[str, Any] = {"draft_length": 4, "threshold": 0.0, "interval": 2}


def additive(seed: int) -> tuple[Tensor, Tensor]:
    """Layers that add a vector each, one in a direction of its own: then keeping the best row is exact."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(LAYERS, generator=generator) + 0.1
    added = torch.zeros(LAYERS, WIDTH)
    added[torch.arange(LAYERS), torch.arange(LAYERS)] = sizes
    start = torch.zeros(1, WIDTH)
    start[0, -1] = 1.0
    return torch.cat([start, start + added.cumsum(0)]), added


@pytest.mark.parametrize("most", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_the_programme_finds_the_best_of_all_sets_where_layers_do_not_depend_on_each_other(
    seed: int, most: int
) -> None:
    target, added = additive(seed)
    got = layers_to_skip(target, lambda rows, layer: rows + added[layer], most)

    def share(left_out: tuple[int, ...]) -> float:
        row = target[0] + sum(added[layer] for layer in range(LAYERS) if layer not in left_out)
        return float(similarity(row[None, None], target[-1:]))

    assert len(got) == most
    assert share(tuple(got)) == pytest.approx(max(map(share, combinations(range(LAYERS), most))))


def test_branches_see_the_text_and_not_each_other() -> None:
    decoder, ids = random_decoder(), prompt(9)
    rows = decoder.embed(ids[-2:])
    decoder.prefill(ids)
    branches = Branches(decoder, 2)
    other = torch.randn_like(rows)
    both, alone = torch.cat([rows, other]), Branches(decoder, 2)
    got = branches.run(both, 0)
    branches.end()
    expected = alone.run(rows, 0)
    alone.end()
    torch.testing.assert_close(got[:2], expected, rtol=0, atol=1e-5)
    decoder.cache.truncate(7)
    own = decoder.run_layers(rows, decoder.placement.chain(7, 2), 0, 1)
    torch.testing.assert_close(expected, own, rtol=0, atol=1e-5)


def test_a_knapsack_reaches_every_weight_by_its_best_moves() -> None:
    knapsack = Knapsack(depth=4, attention=1.0, mlp=2.0)
    assert (knapsack.weight(0), knapsack.weight(1), knapsack.budget) == (1, 2, 6)
    moves = knapsack.moves([0, 1, 2], [1.0, 0.7, 0.9], [0.8, 0.95, 0.2], 3, 0.5)
    assert {weight: (move.before, move.skips) for weight, move in moves.items()} == {
        0: (0, False),
        1: (1, False),
        2: (2, False),  # 0.9 beats leaving out of state 0, 0.8
        3: (1, True),
    }
    assert set(knapsack.moves([0, 1], [1.0, 0.9], None, 7, 0.5)) == {0, 1}


def test_the_objective_is_the_best_of_all_lengths() -> None:
    knapsack = Knapsack(depth=2, attention=1.0, mlp=3.0)
    skip = Skip(frozenset([1]), frozenset([0]))
    by_hand = max((1 - 0.8 ** (n + 1)) / (1 - 0.8) / (8 + n * 4) for n in range(6))
    assert knapsack.most_tokens_per_time(0.8, skip, 5) == pytest.approx(by_hand)


def test_costs_of_sublayers() -> None:
    decoder = random_decoder()
    counted, measured = SublayerCosts.of_weights(decoder), measure_sublayers(decoder)
    assert (counted.attention, counted.mlp, counted.attention_per_token) == (3 * 32 * 32, 3 * 32 * 64, 32)
    assert counted.attention_at(10) == 3 * 32 * 32 + 320
    assert measured.mlp > 0
    assert measured.attention_at(100) >= measured.attention > 0
    assert decoder.cache.length == 0


def test_a_choice_comes_after_the_first_round_and_then_at_intervals() -> None:
    methods = (
        Clasp(skipped_layers=2, **SETTINGS),
        KnapSpec(window=3, similarity=-0.9, costs="weights", **SETTINGS),
    )
    for method in methods:
        method.attach(random_decoder())
        generation = run(method, prompt())
        rounds = len(generation.rounds)
        assert generation.rounds[0].stop == "unchosen"
        assert any(step.drafted for step in generation.rounds)
        assert generation.counts["choices"] == len(range(0, rounds, 2))
        assert 0 < generation.counts["skipped_sublayers"] < generation.counts["sublayers"] == 12 * rounds
    assert run(methods[0], prompt()).counts == run(methods[0], prompt()).counts


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"skipped_layers": 0}, "at least 1"),
        ({"skipped_layers": 1, "interval": 0}, "at least 1"),
        ({"skipped_layers": 1, "threshold": 2.0}, "lie in"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Clasp(**{**SETTINGS, **settings})


def test_other_settings_out_of_range_are_refused() -> None:
    for changes, what in product([{"window": 0}, {"similarity": 1.0}], ["need window"]):
        with pytest.raises(ValueError, match=what):
            KnapSpec(**{"window": 3, "similarity": 0.5, "costs": "weights", **SETTINGS, **changes})
    with pytest.raises(ValueError, match="costs must be one of weights, measured"):
        KnapSpec(window=3, similarity=0.5, costs="guessed", **SETTINGS)
    with pytest.raises(UserError, match=r"skipped_layers must lie in 1\.\.5 for this model, got 6"):
        Clasp(skipped_layers=6, **SETTINGS).attach(random_decoder())
