from collections.abc import Callable

import numpy as np
import pytest

from bench.metrics.controls import Order, carry_over, drift, reason_not_ranked, resolution
from bench.metrics.counts import UndefinedError
from bench.metrics.intervals import Costs
from bench.metrics.speedups import faster_by
from tests.metrics.arena_simulator import Machine, arena


def share(machine: Machine, is_so: Callable[[Costs, Order], bool], runs: int = 60) -> float:
    """Share of simulated runs in which `is_so` holds."""
    return float(np.mean([is_so(*arena(machine, seed)) for seed in range(runs)]))


def is_not_ranked(costs: Costs, order: Order) -> bool:
    return reason_not_ranked(resolution(costs, order)) is not None


def slows_others(costs: Costs, order: Order) -> list[str]:
    """Arms whose carry-over is told from none."""
    return [name for name, interval in carry_over(costs, order).items() if not interval.contains(1.0)]


# --- resolution and the gate


def test_a_sound_run_with_drift_is_ranked_and_names_its_resolution() -> None:
    machine = Machine(questions=80)
    assert share(machine, is_not_ranked) < 0.08
    got = resolution(*arena(machine, 0))
    assert 0.003 < got.unseen < 0.02
    assert got.sentence == f"differences under {100 * got.unseen:.1f} % cannot be seen"


def test_every_second_baseline_decode_slower_is_caught() -> None:
    for questions in (12, 20, 80):
        assert share(Machine(questions=questions, slow_second=0.1), is_not_ranked, 30) == 1
    checked = resolution(*arena(Machine(questions=20, slow_second=0.1), 0))
    assert checked.places.gate.low > 1.05
    assert checked.arms.gate.contains(1.0)
    reason = reason_not_ranked(checked)
    assert reason is not None
    assert reason.startswith("the earlier and the later baseline of a question differ by 1")


def test_places_that_cost_more_in_one_session_and_less_in_another_are_no_fault() -> None:
    machine = Machine(questions=60, sessions=3, repeats=1, slow_second=(0.02, -0.02, 0.0))
    assert share(machine, is_not_ranked, 30) < 0.1
    checked = resolution(*arena(machine, 0))
    assert checked.places.width > 0.05
    assert checked.unseen < 0.02


def test_baselines_that_differ_are_named() -> None:
    costs, order = arena(Machine(questions=80), 0)
    seconds = costs.seconds.copy()
    seconds[1] *= 1.04
    reason = reason_not_ranked(resolution(Costs(costs.names, seconds, costs.tokens), order))
    assert reason is not None
    assert reason.startswith("the two equal baselines differ by")


def test_a_noisy_run_is_not_ranked() -> None:
    reason = reason_not_ranked(resolution(*arena(Machine(noise=0.12), 1)))
    assert reason is not None
    assert "% wide, more than 5 %" in reason


def test_a_single_question_says_nothing_of_the_baselines() -> None:
    checked = resolution(*arena(Machine(questions=1), 0))
    assert reason_not_ranked(checked) == "too few questions to compare the two equal baselines"
    assert checked.sentence == "too few questions to say which differences can be seen"


# --- an arm that slows whoever follows it


@pytest.mark.parametrize(("questions", "methods"), [(20, 2), (80, 5)])
def test_an_arm_that_slows_its_follower_is_named(questions: int, methods: int) -> None:
    machine = Machine(questions=questions, speeds=(1.5,) * methods, slow_follower=0.05)
    assert share(machine, lambda costs, order: "method0" in slows_others(costs, order), 25) > 0.85
    interval = carry_over(*arena(machine, 0))["method0"]
    assert interval.low < np.exp(0.05) < interval.high


def test_arms_that_slow_no_one_are_seldom_suspected() -> None:
    assert share(Machine(speeds=(1.5,) * 3), lambda costs, order: bool(slows_others(costs, order))) < 0.12


def test_what_a_slowing_arm_does_to_others_cancels_between_them() -> None:
    machine = Machine(speeds=(1.5,) * 3, slow_follower=0.05, questions=80, question_spread=0.01)
    covered = share(machine, lambda costs, _: faster_by(costs, "method1", "method2").contains(1.0))
    assert covered > 0.86


def test_with_one_cell_per_question_carry_over_is_still_estimated() -> None:
    machine = Machine(questions=80, repeats=1, question_spread=0.03, slow_follower=0.05)
    interval = carry_over(*arena(machine, 0))["method0"]
    assert interval.low < np.exp(0.05) < interval.high
    assert interval.high / interval.low < 1.1


def test_an_arm_that_nothing_followed_has_no_carry_over() -> None:
    costs, order = arena(Machine(), 0)
    before = np.where(order.before == 2, -1, order.before)
    assert not carry_over(costs, Order(order.place, before, order.started_s))["method0"].is_known


# --- the machine over time


def test_a_drift_of_30_per_cent_is_reported_and_cancels_in_the_comparison() -> None:
    machine = Machine(drift=0.3, questions=80, speeds=(1.5, 1.5), question_spread=0.02)
    assert share(machine, lambda costs, order: drift(costs, order).warning is not None, 40) == 1
    assert share(machine, lambda costs, _: faster_by(costs, "method0", "method1").contains(1.0)) > 0.86
    warning = drift(*arena(machine, 0)).warning
    assert warning is not None
    assert "the machine was not steady" in warning


def test_a_steady_machine_gets_no_warning() -> None:
    machine = Machine(drift=0.0, sessions=2)
    assert share(machine, lambda costs, order: drift(costs, order).warning is not None, 20) == 0


def test_the_series_runs_through_time_and_leaves_out_what_was_not_measured() -> None:
    costs, order = arena(Machine(sessions=2), 0)
    holes = [
        np.where(np.arange(20)[:, None, None] == 3, np.nan, part) for part in (costs.seconds, costs.tokens)
    ]
    got = drift(Costs(costs.names, *holes), order)
    assert got.started_s.shape == got.tokens_per_s.shape == got.running.shape == (2 * 19 * 2 * 2,)
    assert (np.diff(got.started_s) > 0).all()
    assert np.isfinite(got.running).all()


def test_no_decode_of_a_baseline_means_no_drift() -> None:
    costs, order = arena(Machine(), 0)
    empty = np.full_like(costs.seconds, np.nan)
    with pytest.raises(UndefinedError, match="decode of a baseline"):
        drift(Costs(costs.names, empty, empty), order)
