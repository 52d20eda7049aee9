"""What passes and rounds must cost, by example."""

import json
from dataclasses import asdict

import pytest

from bench.metrics.counts import UndefinedError
from bench.metrics.roofline import (
    Costs,
    Curve,
    achieved_share,
    ceiling_tokens_per_s,
    predict,
    predicted_speedup,
    step_bytes,
)
from bench.records.model import Arm, Round, Sample, Timing
from bench.records.rounds import Rounds

COSTS = Costs(
    context=100,
    depth=8,
    passes=Curve((1, 2, 4), (1.0, 1.2, 2.0)),
    head=Curve((1, 4), (0.2, 0.4)),
    dispatch_s=0.25,
)


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [(1, 1.0), (2, 1.2), (3, 1.6), (4, 2.0), (8, 4.0)],
    ids=["first", "measured", "half-way between two", "last", "beyond: in proportion"],
)
def test_a_curve_is_straight_between_measurements(rows: int, seconds: float) -> None:
    assert COSTS.passes.at(rows) == pytest.approx(seconds)


def test_a_curve_takes_measurements_in_any_order() -> None:
    assert Curve.of({4: 2.0, 1: 1.0}) == Curve((1, 4), (1.0, 2.0))


@pytest.mark.parametrize(
    ("rows", "seconds"), [((), ()), ((1, 2), (1.0,)), ((2, 1), (1.0, 1.0)), ((1, 1), (1.0, 1.0))]
)
def test_a_curve_wants_ascending_rows_with_a_time_each(
    rows: tuple[int, ...], seconds: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="ascending rows"):
        Curve(rows, seconds)


def test_the_roofline_reads_weights_and_cache_once_per_token() -> None:
    read = step_bytes(weight_bytes=13_000, token_bytes=10, context=200)
    assert read == 15_000
    assert ceiling_tokens_per_s(read, 1_500_000) == pytest.approx(100)
    assert achieved_share(read, 0.02, 1_500_000) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("resumed_at", "seconds"),
    [(None, 2.0), (0, 2.0), (2, 0.4 + 1.6 * 6 / 8)],
    ids=["all layers", "resumed at the first", "resumed at 2 of 8, the head whole"],
)
def test_a_resumed_verification_pays_for_its_layers_and_the_head(
    resumed_at: int | None, seconds: float
) -> None:
    assert COSTS.verify_s(4, resumed_at) == pytest.approx(seconds)


def test_dispatch_is_a_share_of_one_step() -> None:
    assert COSTS.dispatch_share == pytest.approx(0.25)


def test_a_free_draft_and_verification_of_all_tokens_gains_their_number() -> None:
    assert predicted_speedup(4.0, 1.0, 1.0, 0.0, 0.0) == pytest.approx(4.0)
    assert predicted_speedup(3.0, 1.0, 1.5, 0.4, 0.1) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="must take time"):
        predicted_speedup(1.0, 1.0, 0.0, 0.0, 0.0)


def sample(*rounds: Round, draft_s: float = 1.0, host_s: float = 0.0, contention: float = 1.0) -> Sample:
    tokens = 1 + sum(round_.emitted for round_ in rounds)
    phases = {"draft": draft_s, "verify": 99.0, "commit": 0.0}
    decode_s = 99.0 + draft_s + host_s
    timing = Timing(1.0, decode_s, phases, (1.0 + decode_s) / contention)
    return Sample("q", "qa", 0, 0, Arm.METHOD, 0, ids=(0,) * tokens, rounds=Rounds.of(rounds), timing=timing)


def test_a_prediction_replaces_verification_by_what_its_passes_cost() -> None:
    drafted_three = Round(3, 2, 3, 3, "length")
    assert predict(COSTS, [sample(drafted_three)]) == pytest.approx(3 * 1.0 / (2.0 + 1.0))
    assert predict(COSTS, [sample(drafted_three, host_s=1.0)]) == pytest.approx(3 * 1.0 / (2.0 + 1.0 + 1.0))


def test_a_prediction_leaves_out_what_others_kept_of_the_core() -> None:
    busy = sample(Round(3, 2, 3, 3, "length"), draft_s=2.0, contention=2.0)
    assert predict(COSTS, [busy]) == pytest.approx(3 * 1.0 / (2.0 + 1.0))


def test_a_prediction_pools_rounds_of_every_size_and_exit() -> None:
    rounds = Round(3, 2, 3, 3, "length", exit_layer=2), Round(0, 0, 1, 0, "budget")
    expected = 4 * 1.0 / (0.4 + 1.6 * 6 / 8 + 1.0 + 1.0)
    assert predict(COSTS, [sample(*rounds)]) == pytest.approx(expected)


def test_a_pass_of_one_row_costs_one_row_however_many_tokens_its_round_emits() -> None:
    group = sample(Round(3, 3, 4, 3, "length"))
    assert predict(COSTS, [group], several_tokens_per_row=True) == pytest.approx(4 * 1.0 / (1.0 + 1.0))


def test_a_prediction_needs_rounds() -> None:
    with pytest.raises(UndefinedError):
        predict(COSTS, [])


def test_costs_survive_json() -> None:
    assert Costs.of_record(json.loads(json.dumps(asdict(COSTS)))) == COSTS
