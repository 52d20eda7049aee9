import math

import numpy as np
import pytest

from bench.metrics.intervals import crossed_mean, t_p_value, t_quantile


@pytest.mark.parametrize(
    ("level", "degrees", "quantile"),
    [
        (0.95, 1, 12.7062047364),
        (0.95, 2, 4.3026527297),
        (0.99, 19, 2.8609346065),
        (0.95, 19, 2.0930240544),
        (0.95, 1000, 1.9623390808),
    ],
)
def test_quantiles_are_those_of_printed_tables(level: float, degrees: float, quantile: float) -> None:
    assert t_quantile(level, degrees) == pytest.approx(quantile, rel=1e-9)
    assert t_p_value(quantile, degrees) == pytest.approx(1 - level, rel=1e-8)
    assert t_p_value(-quantile, degrees) == pytest.approx(1 - level, rel=1e-8)


def test_symmetric_values_of_one_session_have_the_textbook_interval() -> None:
    values = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    half = 2.7764451052 * values.std(ddof=1) / math.sqrt(5)
    assert crossed_mean(values[:, None]).bounds(0.95) == pytest.approx((-half, half))


def test_a_long_tail_on_one_side_widens_the_interval_on_that_side_only() -> None:
    values = np.array([0.0] * 10 + [0.1] * 5 + [1.0, 2.0])
    got = crossed_mean(values[:, None])
    low, high = got.bounds(0.95)
    half = t_quantile(0.95, 16) * values.std(ddof=1) / math.sqrt(17)
    assert high - got.mean > half * 1.1
    assert got.mean - low == pytest.approx(half)


@pytest.mark.parametrize("shift", [-0.4, 0.1, 0.35, 0.6])
def test_the_p_value_is_the_level_at_which_the_interval_touches_zero(shift: float) -> None:
    values = np.random.default_rng(0).exponential(1, (20, 3)) - 1 + shift
    got = crossed_mean(values)
    low, high = got.bounds(1 - got.p_value)
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-6)


def test_sessions_that_differ_widen_the_interval_and_repeated_sessions_do_not_narrow_it() -> None:
    values = np.random.default_rng(0).standard_normal((20, 1))
    alone = crossed_mean(values).bounds(0.95)
    same = crossed_mean(np.tile(values, 3)).bounds(0.95)
    shifted = crossed_mean(values + np.array([-1.0, 0.0, 1.0])).bounds(0.95)
    assert same == pytest.approx(alone)
    assert shifted[1] - shifted[0] > 1.5 * (same[1] - same[0])


def test_a_question_absent_from_a_session_counts_with_the_others() -> None:
    values = np.array([[1.0, 3.0], [4.0, np.nan], [np.nan, np.nan]])
    got = crossed_mean(values)
    assert (got.mean, got.questions, got.sessions) == (3.0, 2, 2)


def test_equal_values_are_certain() -> None:
    assert crossed_mean(np.full((4, 2), 0.5)).bounds(0.95) == (0.5, 0.5)
    assert crossed_mean(np.full((4, 2), 0.5)).p_value == 0
    assert crossed_mean(np.zeros((4, 2))).p_value == 1


def test_a_single_question_has_a_mean_without_bounds() -> None:
    got = crossed_mean(np.array([[0.5, 0.7]]))
    assert got.mean == pytest.approx(0.6)
    assert np.isnan([*got.bounds(0.95), got.p_value]).all()


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        crossed_mean(np.zeros((3, 1))).bounds(level)
