import numpy as np
import pytest

from bench.metrics.counts import UndefinedError
from bench.metrics.intervals import (
    Floats,
    Totals,
    aa_check,
    geometric_speedup,
    outliers,
    paired_speedup,
    repeat_variation,
)


def totals(seconds: object, tokens: object = None) -> Totals:
    spent = np.asarray(seconds, dtype=np.float64)
    done = np.full_like(spent, 10.0) if tokens is None else np.asarray(tokens, dtype=np.float64)
    return Totals(spent, done)


def noisy(questions: int, repeats: int, spread: float, seed: int) -> Floats:
    """Seconds, [Q, R]: questions differ in length, repeats by `spread`."""
    rng = np.random.default_rng(seed)
    length = rng.uniform(1, 10, (questions, 1))
    return np.asarray(length * np.exp(spread * rng.standard_normal((questions, repeats))))


def test_speedup_is_the_ratio_of_totals() -> None:
    got = paired_speedup(totals([9.0, 1.0]), totals([3.0, 1.0]))
    assert got.estimate == pytest.approx(10 / 4)


def test_geometric_mean_weighs_questions_alike() -> None:
    got = geometric_speedup(totals([9.0, 1.0]), totals([3.0, 1.0]))
    assert got.estimate == pytest.approx(np.sqrt(3.0))


def test_stopping_early_is_no_speedup() -> None:
    full, half = totals([4.0, 4.0], [8, 8]), totals([2.0, 2.0], [4, 4])
    assert paired_speedup(full, half).estimate == pytest.approx(1.0)
    assert geometric_speedup(full, half).estimate == pytest.approx(1.0)


def test_repeats_of_a_question_are_pooled() -> None:
    got = paired_speedup(totals([[2.0, 4.0], [3.0, 3.0]]), totals([[1.0, 1.0], [2.0, 2.0]]))
    assert got.estimate == pytest.approx(12 / 6)


def test_more_repeats_do_not_narrow_the_interval_over_questions() -> None:
    base, method = noisy(40, 1, 0.0, 0), noisy(40, 1, 0.3, 1)
    once = paired_speedup(totals(base), totals(method))
    often = paired_speedup(totals(np.tile(base, 5)), totals(np.tile(method, 5)))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_pairing_makes_a_constant_ratio_certain() -> None:
    base = noisy(50, 3, 0.5, 0)
    got = paired_speedup(totals(base), totals(base / 1.5))
    assert (got.low, got.estimate, got.high) == pytest.approx((1.5, 1.5, 1.5))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        base = noisy(60, 1, 0.2, 2 * seed)
        rng = np.random.default_rng(2 * seed + 1)
        method = base / 1.5 * np.exp(0.2 * rng.standard_normal(base.shape))
        truth = 1.5 / np.exp(0.2**2 / 2)
        hits += paired_speedup(totals(base), totals(method), resamples=400, seed=seed).contains(truth)
    assert 0.88 <= hits / 200 <= 0.99


def test_same_seed_same_interval() -> None:
    arms = totals(noisy(20, 2, 0.1, 0)), totals(noisy(20, 2, 0.1, 1))
    assert paired_speedup(*arms, seed=7) == paired_speedup(*arms, seed=7)
    assert paired_speedup(*arms, seed=7) != paired_speedup(*arms, seed=8)


def test_a_higher_level_is_wider() -> None:
    arms = totals(noisy(20, 2, 0.1, 0)), totals(noisy(20, 2, 0.1, 1))
    narrow, wide = paired_speedup(*arms, level=0.8), paired_speedup(*arms, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_one_question_gives_an_estimate_without_an_interval() -> None:
    got = paired_speedup(totals([3.0]), totals([2.0]))
    assert got.estimate == pytest.approx(1.5)
    assert not got.is_known
    assert not got.contains(1.5)


def test_questions_without_work_are_left_out_of_both_arms() -> None:
    base, method = totals([4.0, 0.0], [10, 0]), totals([2.0, 1.0], [10, 10])
    assert paired_speedup(base, method).estimate == pytest.approx(2.0)


def test_no_work_at_all_is_undefined() -> None:
    with pytest.raises(UndefinedError, match="tokens and time in both arms"):
        paired_speedup(totals([0.0], [0]), totals([0.0], [0]))


def test_arms_must_pair_up() -> None:
    with pytest.raises(ValueError, match="got 2 and 3 questions"):
        paired_speedup(totals([1.0, 1.0]), totals([1.0, 1.0, 1.0]))


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0], ids=["zero", "one", "per cent"])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        paired_speedup(totals([1.0, 1.0]), totals([1.0, 2.0]), level=level)


@pytest.mark.parametrize(
    ("seconds", "tokens"),
    [([1.0, np.nan], [1, 1]), ([-1.0], [1]), ([1.0], [1, 1]), ([], [])],
    ids=["not finite", "negative", "shapes differ", "empty"],
)
def test_totals_refuse_what_is_no_measurement(seconds: list[float], tokens: list[float]) -> None:
    with pytest.raises(ValueError, match=r"need equal shapes|must be finite"):
        totals(seconds, tokens)


def test_aa_holds_for_noise() -> None:
    assert aa_check(totals(noisy(100, 2, 0.05, 0))).is_valid is True


def test_aa_cancels_a_position_effect() -> None:
    """The second repeat is 10 % slower for every question: half of each half is slow."""
    seconds = np.array([[1.0, 1.1]] * 40)
    check = aa_check(totals(seconds))
    assert check.is_valid is True
    assert check.interval.estimate == pytest.approx(1.0)


def test_aa_fails_where_the_halves_differ() -> None:
    seconds = noisy(40, 2, 0.01, 0)
    seconds[0::2, 0] *= 1.2  # half A: repeat 0 of even questions ...
    seconds[1::2, 1] *= 1.2  # ... and repeat 1 of odd ones
    check = aa_check(totals(seconds))
    assert check.is_valid is False
    assert check.interval.low > 1.1


def test_aa_is_a_gate_that_one_sound_run_in_a_hundred_fails() -> None:
    """Halves that differ by chance as one run in twenty does: 1 is outside the 95 % interval, inside that of
    99 %."""
    seconds = totals(noisy(40, 2, 0.05, 87))
    assert aa_check(seconds).interval.level == 0.99
    assert aa_check(seconds, level=0.95).is_valid is False
    assert aa_check(seconds).is_valid is True


def test_aa_leaves_an_odd_last_repeat_out() -> None:
    seconds = noisy(10, 2, 0.1, 0)
    third = np.column_stack([seconds, np.full(10, 99.0)])
    assert aa_check(totals(third)) == aa_check(totals(seconds))


def test_aa_needs_two_repeats_and_two_questions() -> None:
    with pytest.raises(UndefinedError, match="at least 2 repeats"):
        aa_check(totals([[1.0], [2.0]]))
    assert aa_check(totals([[1.0, 2.0]])).is_valid is None


def test_variation_over_repeats_flags_the_unsteady_question() -> None:
    got = repeat_variation(totals([[1.0, 1.0, 1.0], [1.0, 1.2, 1.4], [0.0, 1.0, 1.0]]))
    assert got[0] == pytest.approx(0.0, abs=1e-12)
    assert got[1] == pytest.approx(0.2 / 1.2)
    assert np.isnan(got[2])
    assert outliers(got) == (1,)


def test_variation_compares_equal_work() -> None:
    assert repeat_variation(totals([[1.0, 2.0]], [[10, 20]])).tolist() == [0.0]


def test_variation_needs_two_repeats() -> None:
    with pytest.raises(UndefinedError, match="at least 2 repeats"):
        repeat_variation(totals([1.0, 2.0]))
