"""KnapSpec: weights, the best set and length, and what it skips of a model."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from bench.errors import UserError
from bench.runtime.decoder import NO_SKIP, Decoder, Skip
from bench.runtime.sublayer_costs import SublayerCosts, measure_sublayers
from methods.skipping.knapspec import MOST_WEIGHT, KnapSpec, RoundCosts, halves_of
from tests.methods.skipping.skips import yaml_of
from tests.methods.skipping.test_swift import Noted, generate, greedy_ids
from tests.methods.small import prompt, random_decoder, run, scale_writers


def knapspec(decoder: Decoder, **changes: Any) -> KnapSpec:
    settings = {**yaml_of("knapspec"), "threshold": 0.0, "interval": 1}
    method = KnapSpec(**{**settings, **changes})
    method.attach(decoder)
    return method


def test_sublayers_that_change_nothing_are_skipped_and_the_longest_draft_is_taken() -> None:
    decoder = random_decoder(tier="static")
    scale_writers(decoder, 2, 0.0)
    method = knapspec(decoder, draft_length=5)
    got = run(method, prompt(), new=1 + 18)
    assert method.skip == Skip(frozenset({2, 3, 4}), frozenset({2, 3, 4}))  # half of all twelve, as allowed
    assert [(round_.drafted, round_.accepted) for round_ in got.rounds] == [(5, 5)] * 3


def test_where_nothing_is_similar_it_decodes_plainly() -> None:
    decoder = random_decoder()
    method = knapspec(decoder, least_similarity=1.0)
    got = run(method, prompt(), new=12)
    assert got.ids == greedy_ids(decoder, prompt(), 12)
    assert {round_.drafted for round_ in got.rounds} == {0}
    assert method.skip == NO_SKIP
    assert got.counts["skipped_sublayers"] == 0


def test_choosing_is_a_phase_of_its_own_and_counted() -> None:
    clock = Noted()
    got = generate(knapspec(random_decoder(), interval=3), clock, new=20)
    expected = (len(got.rounds) + 2) // 3
    assert got.counts["search_steps"] == clock.phases.count("search") == expected
    assert got.counts["search_rows"] > 8 * 12 * expected


def test_answers_do_not_depend_on_earlier_prompts() -> None:
    method = knapspec(random_decoder(), least_similarity=-1.0)
    first = run(method, prompt(), new=20)
    run(method, prompt(9, seed=8), new=20)
    assert run(method, prompt(), new=20) == first


COSTS = RoundCosts(attention=3.0, mlp=2.0, head=1.0, depth=4)


def test_tokens_per_time_as_computed_by_hand() -> None:
    skip = Skip(frozenset({1}), frozenset({1, 2}))
    draft = 3 * 3.0 + 2 * 2.0 + 1.0
    target = 4 * 5.0 + 1.0
    assert COSTS.tokens_per_time(skip, 0.5, 2) == pytest.approx((1 + 0.5 + 0.25) / (2 * draft + target))
    assert COSTS.tokens_per_time(skip, 0.9, 0) == pytest.approx(1 / target)


@pytest.mark.parametrize("rates", [(1.0, 0.9, 0.6), (1.0, 0.1, 0.2), (1.0, 0.97, 1.0)], ids=str)
def test_the_choice_is_the_best_of_all_pairs(rates: tuple[float, ...]) -> None:
    skips = [NO_SKIP, Skip(frozenset({1})), Skip(frozenset({1, 2}), frozenset({2}))]
    best, length = COSTS.choose(skips, rates, 6)
    value = COSTS.tokens_per_time(skips[best], rates[best], length)
    every = [COSTS.tokens_per_time(skips[n], rates[n], g) for n, g in product((1, 2), range(7))]
    assert value == pytest.approx(max(every))
    assert (length == 0) == (best == 0)


@pytest.mark.parametrize(
    ("attention", "mlp", "weights"),
    [(1.0, 1.0, (1, 1)), (2.6, 1.0, (3, 1)), (1.0, 40.0, (1, MOST_WEIGHT)), (0.0, 1.0, (1, MOST_WEIGHT))],
)
def test_weights_are_multiples_of_the_cheaper_half(
    attention: float, mlp: float, weights: tuple[int, int]
) -> None:
    assert RoundCosts(attention, mlp, 0.0, 4).weights() == weights


def test_attention_costs_more_over_a_longer_text() -> None:
    costs = SublayerCosts(attention=2.0, attention_per_token=0.5, mlp=1.0, head=0.0)
    assert (costs.attention_at(0), costs.attention_at(10)) == (2.0, 7.0)


@pytest.mark.parametrize("capacity", [1, 2, 256])
def test_measured_costs_are_times_of_this_model(capacity: int) -> None:
    decoder = random_decoder(capacity=capacity)
    costs = measure_sublayers(decoder, knapspec(random_decoder())._head)
    assert costs.mlp > 0
    assert costs.head > 0
    assert costs.attention_per_token >= 0
    assert costs.attention_at(100) > 0
    assert decoder.cache.length == 0


def test_numbers_read_are_those_of_the_weights_and_of_the_cache() -> None:
    decoder = random_decoder()  # width 32, 4 heads of 8 and 2 for keys and values, MLPs of 64, 96 tokens
    costs = SublayerCosts.of_weights(decoder, knapspec(decoder)._head)
    assert costs == SublayerCosts((4 + 2 * 2) * 8 * 32 + 32 * 32, 2 * 2 * 8, 3 * 32 * 64, 96 * 32)


def test_measured_costs_decode_the_same_text() -> None:
    decoder = random_decoder()
    got = run(knapspec(decoder, costs="measured", least_similarity=-1.0), prompt(), new=20)
    assert got.ids == greedy_ids(decoder, prompt(), 20)


def test_items_are_halves_of_layers() -> None:
    assert halves_of([0, 3, 4, 5]) == Skip(frozenset({0, 2}), frozenset({1, 2}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("window", 0), ("interval", 0), ("least_similarity", -2), ("costs", "guessed")),
        *(("draft_length", 0), ("threshold", -1)),
    ],
)
def test_settings_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        KnapSpec(**{**yaml_of("knapspec"), key: value})


def test_a_model_without_a_layer_to_skip_is_refused() -> None:
    with pytest.raises(UserError, match="this model has 2 layers"):
        knapspec(random_decoder(num_hidden_layers=2))
