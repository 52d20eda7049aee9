"""A run's rounds as settings of the synthetic method, and the synthetic rounds that follow from them."""

from __future__ import annotations

from array import array

import pytest

from bench.errors import UserError
from bench.project.__main__ import main, settings_of
from bench.project.rates import Rates
from bench.records.model import Arm, Round, Sample, Timing
from bench.records.rounds import Rounds
from tests.harness import published_arena


def sample(rounds: list[Round]) -> Sample:
    timing = Timing(0.1, 1.0, {}, 1.1, array("d"))
    return Sample("q", "qa", 0, 0, Arm.METHOD, 0, 4, ids=(0,), rounds=Rounds.of(rounds), timing=timing)


def test_rates_and_stops_are_counted_where_a_draft_came_that_far() -> None:
    none = [Round(0, 0, 1, 0, "match")] * 5
    short = [Round(1, accepted, accepted + 1, 1, "confidence") for accepted in (0, 1) * 5]
    whole = [Round(2, accepted, accepted + 1, 2, "length") for accepted in (0, 1, 2, 2) * 5]
    cut = [Round(1, 1, 2, 1, "budget")] * 50  # says nothing of the method
    rates = Rates.of([sample(none + short), sample(whole + cut)])
    assert rates.acceptance == (20 / 30, 10 / 15)
    assert rates.stops == (5 / 35, 10 / 30)
    assert (rates.nodes, rates.exit_layer) == (None, None)
    assert rates.settings() == "'method.acceptance=[0.6667,0.6667]' 'method.stops=[0.1429,0.3333]'"


def test_a_tree_and_an_exit_layer_are_named() -> None:
    rates = Rates.of([sample([Round(63, 1, 2, 3, "length", exit_layer=2)] * 12)])
    assert (rates.nodes, rates.exit_layer, len(rates.acceptance)) == (64, 2, 3)
    assert rates.settings().endswith("method.schedule.nodes=64 method.schedule.exit_at=2")


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(UserError, match="too few rounds"):
        Rates.of([sample([Round(1, 1, 2, 1, "length")] * 9)])


def test_a_published_run_gives_settings_that_compose(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{published_arena()}:kangaroo", "as=rates"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("kangaroo: 'method.acceptance=[0.29")
    assert "method.schedule.exit_at=2" in text
    with pytest.raises(UserError, match="unknown form"):
        settings_of(["as=rate"])
