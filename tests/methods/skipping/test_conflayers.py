"""ConfLayers: confidences, the threshold, and how sets are tried, judged and kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from methods.core.base import Stateful
from methods.skipping.conflayers import (
    ConfLayers,
    confidence,
    local_bounds,
    neighbourhoods,
    unsure_layers,
)
from methods.skipping.sublayer_skip import skip_of
from tests.methods.skipping.skips import yaml_of
from tests.methods.skipping.test_swift import Noted, generate, greedy_ids
from tests.methods.small import prompt, random_decoder, run, scale_writers


def conflayers(decoder: Decoder, **changes: Any) -> ConfLayers:
    settings = {**yaml_of("conflayers"), "window": 4, "interval": 3, "threshold": 0.0, "draft_length": 2}
    method = ConfLayers(**{**settings, **changes})
    method.attach(decoder)
    return method


def test_confidence_is_one_for_one_channel_and_zero_for_equal_ones() -> None:
    assert float(confidence(torch.zeros(1, 3, 8))) == pytest.approx(0.0, abs=1e-6)
    assert float(confidence(torch.eye(8)[:3] * 80)) == pytest.approx(1.0, abs=1e-6)
    half = torch.tensor([[80.0, 80.0, 0.0, 0.0]])  # two of four: entropy log 2 of log 4
    assert float(confidence(half)) == pytest.approx(0.5, abs=1e-6)


def test_bounds_are_mean_and_deviation_of_the_neighbours() -> None:
    curve = np.array([1.0, 5.0, 3.0, 7.0])
    assert local_bounds(curve, [2, 2, 2, 2], 0.0).tolist() == [5.0, 2.0, 6.0, 3.0]
    assert local_bounds(curve, [2, 2, 2, 2], 0.5).tolist() == [5.0, 1.5, 5.5, 3.0]


def test_neighbourhoods_grow_with_depth_and_where_the_curve_bends_up() -> None:
    flat = neighbourhoods(np.zeros(30), 32)
    assert flat == sorted(flat)
    assert (flat[0], flat[-1]) == (2, 4)
    bent = np.zeros(30)
    bent[25] = -1.0  # the curve bends up around its lowest point
    assert neighbourhoods(bent, 32)[25] > flat[25]


def test_layers_in_a_dip_are_skipped_and_lambda_moves_into_range() -> None:
    curve = np.array([1.0, 0.2, 1.0, 0.9, 0.1, 1.0, 0.95, 0.3, 1.0, 1.0])
    looseness, places = unsure_layers(curve, (0.25, 0.4), 0.0, 12)
    assert {1, 4, 7} <= set(places)
    assert 0.25 <= len(places) / 10 <= 0.4
    more, many = unsure_layers(curve, (0.6, 0.8), looseness, 12)
    assert more < looseness
    assert 0.6 <= len(many) / 10 <= 0.8


def test_the_first_and_the_last_layer_always_run() -> None:
    method = conflayers(random_decoder())
    for seed in range(4):
        run(method, prompt(seed=seed), new=30)
        assert method.skip.attention == method.skip.mlp
        assert method.skip.mlp <= {1, 2, 3, 4}


def test_layers_that_add_nothing_have_no_confidence_and_are_skipped() -> None:
    decoder = random_decoder(tier="static", num_hidden_layers=9)
    scale_writers(decoder, 5, 1e-6)
    method = conflayers(decoder, skip_ratio=0.3)
    run(method, prompt(), new=20)
    assert method.skip.mlp & {5, 6, 7}


def test_sets_are_chosen_from_the_answer_and_each_choice_is_a_counted_phase() -> None:
    decoder, clock = random_decoder(), Noted()
    method = conflayers(decoder)
    got = generate(method, clock, new=40)
    assert got.ids == greedy_ids(decoder, prompt(), 40)
    assert got.counts["search_steps"] == clock.phases.count("search") > 2
    assert got.counts["search_rows"] == got.counts["search_steps"] * 4 * 12
    assert got.counts["searching_rounds"] == len(got.rounds)
    short = run(conflayers(decoder), prompt(), new=5)
    assert short.counts["search_steps"] == 0


def test_after_the_last_try_the_best_set_is_kept() -> None:
    method = conflayers(random_decoder(), max_iter=2)
    odd = skip_of([1, 3], [1, 3])
    assert method.skip == odd
    method._text, method._prompt = list(range(20)), 2
    method._tries, method.skip = 1, skip_of([2], [2])
    for accepted in (2, 2, 2):
        method.learn(accepted, 4)
    assert (method.is_due(), method._best) == (True, skip_of([2], [2]))
    method._tries, method.skip = 2, odd
    method._trial = type(method._trial)()
    for accepted in (1, 1, 1):
        method.learn(accepted, 4)
    assert method._best == skip_of([2], [2])
    rerun: Any = None
    assert method.choose(rerun) == skip_of([2], [2])
    assert not method.is_searching()
    assert not method.is_due()


def test_a_set_that_is_good_enough_ends_the_search() -> None:
    method = conflayers(random_decoder(), max_accepted=1.5, max_score=0.5)
    method._text, method._prompt, method._tries = list(range(20)), 2, 1
    for _ in range(3):
        method.learn(2, 3)
    assert not method.is_searching()
    assert not method.is_due()


def test_a_set_that_gets_nothing_accepted_is_given_up_after_half_of_its_rounds() -> None:
    method = conflayers(random_decoder(), interval=6)
    method._text, method._prompt, method._tries = list(range(20)), 2, 1
    due = []
    for _ in range(3):
        method.learn(0, 2)
        due.append(method.is_due())
    assert due == [False, False, True]


def test_it_learns_over_prompts_until_it_is_reset() -> None:
    method = conflayers(random_decoder())
    assert isinstance(method, Stateful)
    first = run(method, prompt(), new=30)
    tries = method._tries
    assert tries
    run(method, prompt(seed=5), new=30)
    assert method._tries > tries
    method.reset()
    assert run(method, prompt(), new=30) == first


@pytest.mark.parametrize(
    "key", ["window", "skip_ratio", "skip_slack", "interval", "max_iter", "draft_length", "threshold"]
)
def test_settings_out_of_range_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        ConfLayers(**{**yaml_of("conflayers"), key: -1})


def test_a_model_without_layers_to_choose_from_is_refused() -> None:
    with pytest.raises(UserError, match="this model has 3 layers"):
        conflayers(random_decoder(num_hidden_layers=3))
