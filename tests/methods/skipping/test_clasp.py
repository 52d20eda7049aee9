"""CLaSp: what it skips, when it chooses, and what choosing costs."""

from __future__ import annotations

from typing import Any

import pytest

from bench.errors import UserError
from bench.runtime.decoder import NO_SKIP, Decoder
from methods.core.base import traits_of
from methods.skipping.clasp import Clasp
from tests.methods.skipping.skips import yaml_of
from tests.methods.skipping.test_swift import Noted, generate, greedy_ids
from tests.methods.small import prompt, random_decoder, run, scale_writers


def clasp(decoder: Decoder, **changes: Any) -> Clasp:
    method = Clasp(**{**yaml_of("clasp"), "interval": 1, "threshold": 0.0, "draft_length": 4, **changes})
    method.attach(decoder)
    return method


def test_layers_that_change_nothing_are_the_ones_skipped() -> None:
    decoder = random_decoder(tier="static")
    scale_writers(decoder, 3, 0.0)  # layers 3, 4 and 5 pass their rows on
    method = clasp(decoder, skip_ratio=0.5)
    got = run(method, prompt(), new=1 + 15)
    assert method.skip.attention == method.skip.mlp == frozenset({3, 4, 5})
    assert [(round_.drafted, round_.accepted) for round_ in got.rounds] == [(4, 4)] * 3


def test_the_set_follows_the_text() -> None:
    method = clasp(random_decoder(), skip_ratio=0.34)
    sets, choose = set(), method.choose

    def noted(rerun: Any) -> Any:
        sets.add(chosen := choose(rerun))
        return chosen

    method.choose = noted  # type: ignore[method-assign]
    run(method, prompt(), new=40)
    assert len(sets) > 1
    assert {len(chosen.mlp) for chosen in sets} == {2}


@pytest.mark.parametrize(("interval", "choices"), [(1, 6), (4, 2), (100, 1)])
def test_choosing_is_a_phase_of_its_own_and_counted(interval: int, choices: int) -> None:
    decoder, clock = random_decoder(), Noted()
    method = clasp(decoder, interval=interval, skip_ratio=0.2, draft_length=1)
    got = generate(method, clock, new=7)
    rounds = len(got.rounds)
    assert got.counts["search_steps"] == clock.phases.count("search") <= choices
    assert got.counts["searching_rounds"] == rounds
    assert clock.phases[:4] == ["search", "draft", "verify", "commit"]
    per_choice = 1 + 2 * 5  # one version in layer 0, two in the others
    assert got.counts["search_rows"] == per_choice * got.counts["search_steps"]
    assert got.counts["skipped_sublayers"] == 2 * rounds


def test_answers_do_not_depend_on_earlier_prompts() -> None:
    method = clasp(random_decoder())
    first = run(method, prompt(), new=20)
    run(method, prompt(9, seed=8), new=20)
    assert run(method, prompt(), new=20) == first


def test_without_a_free_slot_it_drafts_with_what_it_has() -> None:
    decoder = random_decoder(capacity=64)
    method = clasp(decoder)
    got = run(method, prompt(63), new=1)
    assert got.counts["search_steps"] == 0
    got = run(method, prompt(40), new=24)
    assert got.ids == greedy_ids(decoder, prompt(40), 24)
    run(method, prompt(64), new=1)
    assert method.skip is NO_SKIP


@pytest.mark.parametrize("key", ["skip_ratio", "interval", "draft_length", "threshold"])
def test_settings_out_of_range_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        Clasp(**{**yaml_of("clasp"), key: -1})


def test_a_share_of_less_than_one_layer_is_refused() -> None:
    with pytest.raises(UserError, match="is none"):
        clasp(random_decoder(), skip_ratio=0.1)


def test_it_says_that_it_is_a_reimplementation() -> None:
    assert traits_of(clasp(random_decoder())).is_reimplementation
