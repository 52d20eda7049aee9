from dataclasses import replace

import numpy as np
import pytest

from bench.metrics.counts import UndefinedError
from bench.metrics.intervals import Costs, Floats
from bench.metrics.paired import few, holm, pairwise, shared_ranks
from bench.metrics.speedups import faster_by, faster_by_total
from tests.metrics.arena_simulator import Machine, apart, arena
from tests.metrics.old_design import aa_check, paired_speedup

NAN = np.nan


def costs(seconds: object, tokens: object = None) -> Costs:
    """Costs of arms a, b, ... from seconds [A, Q], one session and repeat."""
    spent = np.asarray(seconds, dtype=np.float64)[:, :, None, None]
    done = np.where(np.isnan(spent), NAN, 10.0)
    if tokens is not None:
        done = np.asarray(tokens, dtype=np.float64)[:, :, None, None]
    return Costs(tuple("abcdefgh"[: len(spent)]), spent, done)


def least(share: float, runs: int) -> float:
    """What the share of `runs` simulated runs stays above with 99 %, if the true share is `share`."""
    return share - 2.33 * float(np.sqrt(share * (1 - share) / runs))


def most(share: float, runs: int) -> float:
    """What the share of `runs` simulated runs stays below with 99 %, if the true share is `share`."""
    return 1 - least(1 - share, runs)


# --- estimates


def test_every_question_weighs_the_same_or_by_its_length() -> None:
    arms = costs([[3.0, 1.0], [9.0, 1.0]])
    assert faster_by(arms, "a", "b").estimate == pytest.approx(np.sqrt(3))
    assert faster_by_total(arms, "a", "b").estimate == pytest.approx(10 / 4)


def test_stopping_early_is_no_speedup() -> None:
    arms = costs([[2.0, 2.0], [4.0, 4.0]], [[4, 4], [8, 8]])
    assert faster_by(arms, "a", "b").estimate == pytest.approx(1)
    assert faster_by_total(arms, "a", "b").estimate == pytest.approx(1)


def test_only_cells_that_both_arms_have_are_compared() -> None:
    seconds = np.array([[[1.0, 9.0], [1.0, NAN]], [[2.0, NAN], [2.0, 7.0]]])[:, :, None, :]  # [2, 2, 1, 2]
    arms = Costs(("a", "b"), seconds, np.where(np.isnan(seconds), NAN, 10.0))
    assert faster_by(arms, "a", "b").estimate == pytest.approx(2)
    assert faster_by_total(arms, "a", "b").estimate == pytest.approx(2)


def test_a_question_without_tokens_is_left_out() -> None:
    arms = costs([[1.0, 0.5], [2.0, 0.0]], [[10, 10], [10, 0]])
    assert faster_by(arms, "a", "b").estimate == pytest.approx(2)
    assert not faster_by(arms, "a", "b").is_known


def test_swapping_the_arms_inverts_the_interval() -> None:
    arms, _ = arena(Machine(sessions=3, tail="skewed"), 0)
    for compare in (faster_by, faster_by_total):
        there, back = compare(arms, "method0", "baseline"), compare(arms, "baseline", "method0")
        assert (there.low, there.high) == pytest.approx((1 / back.high, 1 / back.low))


def test_lost_cells_move_an_estimate_by_less_than_its_interval() -> None:
    full, _ = arena(Machine(sessions=3), 0)
    is_lost = np.random.default_rng(0).random(full.seconds.shape) < 0.2
    is_lost[:, 10:, 2] = True  # the last session stopped half way
    holed = Costs(full.names, *(np.where(is_lost, NAN, values) for values in (full.seconds, full.tokens)))
    for compare in (faster_by, faster_by_total):
        whole, part = compare(full, "method0", "baseline"), compare(holed, "method0", "baseline")
        assert whole.contains(part.estimate)
        assert 0.8 < (part.high - part.low) / (whole.high - whole.low) < 1.5


def test_arms_without_a_common_question_cannot_be_compared() -> None:
    arms = costs([[1.0, NAN], [NAN, 1.0], [2.0, 2.0]])
    with pytest.raises(UndefinedError, match="a and b share no question"):
        faster_by(arms, "a", "b")
    with pytest.raises(UndefinedError, match="a and b share no question"):
        faster_by_total(arms, "a", "b")
    matrix = pairwise(arms)
    assert not matrix.intervals[0][1].is_known
    assert np.isnan(matrix.p_values[0, 1])
    assert shared_ranks(arms, "abc") == {"a": 1, "b": 1, "c": 1}


def test_costs_refuse_what_is_no_measurement() -> None:
    ones: Floats = np.ones((2, 3, 1, 1))
    hole = ones.copy()
    hole[0, 0] = NAN
    with pytest.raises(ValueError, match=r"need two arrays \[1, Q, S, R\]"):
        Costs(("a",), ones, ones)
    with pytest.raises(ValueError, match="names of the arms must differ"):
        Costs(("a", "a"), ones, ones)
    with pytest.raises(ValueError, match="NaN in the same cells"):
        Costs(("a", "b"), hole, ones)
    with pytest.raises(ValueError, match="not negative"):
        Costs(("a", "b"), ones, -ones)
    with pytest.raises(ValueError, match="there is no arm 'c', only a, b"):
        faster_by(Costs(("a", "b"), ones, ones), "a", "c")


def test_fewer_than_twenty_questions_are_few() -> None:
    assert (few(19), few(20)) == ("few", "")


# --- many pairs


def test_holm_gives_the_published_correction() -> None:
    p_values = np.array([0.01, 0.04, 0.03, 0.005])
    assert holm(p_values) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_does_not_count_what_is_unknown() -> None:
    assert holm(np.array([0.02, NAN, 0.9])) == pytest.approx([0.04, NAN, 0.9], nan_ok=True)
    assert len(holm(np.array([]))) == 0


def test_the_matrix_holds_each_pair_in_both_directions() -> None:
    arms, _ = arena(Machine(speeds=(1.5, 2.0)), 0)
    matrix = pairwise(arms)
    assert matrix.intervals[2][3] == faster_by(arms, "method0", "method1")
    assert matrix.intervals[3][2].estimate == pytest.approx(1 / matrix.intervals[2][3].estimate)
    assert matrix.p_values == pytest.approx(matrix.p_values.T)
    assert (np.diag(matrix.p_values) == 1).all()


def test_a_rank_is_one_more_than_the_number_of_arms_known_to_be_faster() -> None:
    machine = Machine(speeds=(2.0, 1.5, 1.5, 1.0), question_spread=0.01, noise=0.01, questions=40)
    arms, _ = arena(machine, 1)
    assert shared_ranks(arms, machine.names[2:]) == {"method0": 1, "method1": 2, "method2": 2, "method3": 4}


def test_only_the_ranked_arms_count() -> None:
    arms, _ = arena(Machine(speeds=(2.0, 1.5), question_spread=0.01), 1)
    assert shared_ranks(arms, ["method1", "baseline"]) == {"method1": 1, "baseline": 2}
    assert shared_ranks(arms, ["method1"]) == {"method1": 1}


# --- simulated machines: a drift of 28 %, of which a method feels 0.6 to 0.8


@pytest.mark.parametrize(
    "machine",
    [
        Machine(),
        Machine(tail="t3"),
        Machine(tail="skewed", length_spread=0.9),
        Machine(questions=12, tail="skewed"),
        Machine(questions=80, tail="skewed"),
        Machine(sessions=3, session_spread=0.05),
        Machine(sessions=3, session_spread=0.05, tail="skewed"),
        Machine(sessions=3, session_spread=0.05, tail="t3", questions=12),
        Machine(sessions=3, session_spread=0.05, tail="t3", questions=80),
    ],
    ids=lambda machine: f"{machine.tail}-{machine.questions}-questions-{machine.sessions}-sessions",
)
def test_intervals_of_95_per_cent_cover_at_least_93(machine: Machine) -> None:
    runs, covered = 200, np.zeros(3)
    for seed in range(runs):
        arms, _ = arena(machine, seed)
        covered += [
            faster_by(arms, "method0", "baseline").contains(1.5),
            faster_by(arms, "method0", "method1").contains(1.0),
            faster_by_total(arms, "method0", "method1").contains(1.0),
        ]
    assert (covered / runs > least(0.93, runs)).all(), covered / runs


def test_a_session_effect_on_the_ratio_is_covered_and_widens_the_interval() -> None:
    machine = Machine(speeds=(1.5,), sessions=3, session_spread=0.1, question_spread=0.02, questions=20)
    runs = 250
    got = [faster_by(arena(machine, seed)[0], "method0", "baseline") for seed in range(runs)]
    assert np.mean([interval.contains(1.5) for interval in got]) > least(0.93, runs)
    calm = faster_by(arena(replace(machine, session_spread=0.0), 0)[0], "method0", "baseline")
    assert np.median([interval.high - interval.low for interval in got]) > 2 * (calm.high - calm.low)


def test_equal_methods_are_told_apart_in_at_most_five_per_cent_of_runs() -> None:
    for machine in (Machine(speeds=(1.5,) * 4), Machine(speeds=(1.5,) * 4, tail="t3", sessions=3)):
        runs = 100
        ranks = [
            set(shared_ranks(arena(machine, seed)[0], machine.names[2:]).values()) for seed in range(runs)
        ]
        assert np.mean([len(places) > 1 for places in ranks]) < most(0.05, runs)


def test_a_true_difference_of_five_per_cent_is_found_with_80_questions() -> None:
    machine = Machine(speeds=(1.5, 1.575), questions=80, question_spread=0.08)
    ranks = [shared_ranks(arena(machine, seed)[0], machine.names[2:]) for seed in range(60)]
    assert np.mean([rank["method0"] == 2 for rank in ranks]) > 0.85
    assert all(rank["method1"] == 1 for rank in ranks)


# --- the old design, each method in a run of its own, misses what the new one sees


def old_design(machine: Machine) -> tuple[float, float]:
    """Share of 95 % intervals that cover the truth, and of pairs of equal methods with different ranks."""
    truth = 1.5 / np.exp(machine.question_spread**2 / 2)  # of the ratio of totals
    covered = apart_ = 0
    for seed in range(100):
        first, *_, last = (paired_speedup(*run, resamples=500) for run in apart(machine, seed))
        covered += first.contains(truth)
        apart_ += first.low > last.high or last.low > first.high
    return covered / 100, apart_ / 100


def test_the_old_design_covers_too_seldom_and_ranks_equal_methods_apart() -> None:
    machine = Machine(speeds=(1.5, 1.5, 1.5), questions=80)
    coverage, told_apart = old_design(machine)
    assert 0.5 < coverage < 0.8
    assert 0.1 < told_apart < 0.3
    steady_coverage, steady_apart = old_design(replace(machine, drift=0.0))
    assert steady_coverage > least(0.93, 100)
    assert steady_apart <= 0.01


def test_the_old_check_of_the_baseline_misses_a_slow_second_decode() -> None:
    machine = Machine(slow_second=0.1)
    for seed in range(20):
        baseline, _ = apart(machine, seed)[0]
        assert aa_check(baseline, resamples=1000).is_valid
