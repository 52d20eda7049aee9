import math
from collections.abc import Callable

import numpy as np
import pytest

from bench.metrics.counts import UndefinedError, Work, decode_work, end_to_end_work
from bench.metrics.intervals import Costs, Floats, t_quantile
from bench.metrics.speedups import baseline_check, costs_of, faster_by, faster_by_total, speedup
from bench.metrics.summary import UNSTEADY, repeat_variation
from bench.records.model import Arm, Sample, Timing


def sample(
    prompt: int,
    seconds: float,
    arm: Arm = Arm.BASELINE,
    *,
    turn: int = 0,
    repeat: int = 0,
    session: int = 0,
    tokens: int = 10,
) -> Sample:
    """A sample with so many tokens after the first, decoded in so many seconds after 0.5 s of prefill."""
    ids = tuple(range(tokens + 1))
    timing = Timing(0.5, seconds, {}, 0.5 + seconds)
    return Sample(f"q{prompt:03}", "qa", turn, repeat, arm, 0, ids=ids, timing=timing, session=session)


def failed(prompt: int, turn: int, arm: Arm) -> Sample:
    return Sample(f"q{prompt:03}", "qa", turn, 0, arm, 0, error="boom")


def arm_of(seconds: object, arm: Arm = Arm.BASELINE, session: int = 0) -> list[Sample]:
    """Samples of one arm from seconds [Q, R]."""
    return [
        sample(prompt, float(spent), arm, repeat=repeat, session=session)
        for prompt, row in enumerate(np.asarray(seconds, dtype=np.float64))
        for repeat, spent in enumerate(row)
    ]


def noisy(questions: int, repeats: int, spread: float, seed: int) -> Floats:
    """Seconds, [Q, R]: questions differ in length, repeats by `spread`."""
    rng = np.random.default_rng(seed)
    length = rng.uniform(1, 10, (questions, 1))
    return np.asarray(length * np.exp(spread * rng.standard_normal((questions, repeats))))


# --- speedups of samples


def test_a_speedup_is_the_ratio_of_totals_with_the_interval_of_the_jackknife() -> None:
    """Recalculated step by step; logs of these ratios are too little skewed for Hall's bound to be wider."""
    base, method = noisy(30, 2, 0.1, 0), noisy(30, 2, 0.1, 1)
    got = speedup(arm_of(base), arm_of(method, Arm.METHOD)).decode
    assert got is not None
    assert got.estimate == pytest.approx(base.sum() / method.sum())
    without = [
        math.log(np.delete(base, q, axis=0).sum() / np.delete(method, q, axis=0).sum()) for q in range(30)
    ]
    error = math.sqrt(29 / 30 * sum((log - np.mean(without)) ** 2 for log in without))
    half = t_quantile(0.95, 29) * error
    centre = math.log(got.estimate)
    assert math.log(got.low) == pytest.approx(centre - half, abs=0.1 * half)
    assert math.log(got.high) == pytest.approx(centre + half, abs=0.1 * half)
    assert math.log(got.low) <= centre - half + 1e-12
    assert math.log(got.high) >= centre + half - 1e-12


def test_every_question_weighs_the_same_in_the_geometric_mean() -> None:
    got = speedup(arm_of([[9.0], [1.0]]), arm_of([[3.0], [1.0]], Arm.METHOD))
    assert got.decode is not None
    assert got.decode.estimate == pytest.approx(10 / 4)
    assert got.decode_geometric is not None
    assert got.decode_geometric.estimate == pytest.approx(math.sqrt(3))
    assert got.end_to_end is not None
    assert got.end_to_end.estimate == pytest.approx(11 / 5)


def test_more_repeats_do_not_narrow_the_interval_over_questions() -> None:
    base, method = noisy(40, 1, 0.0, 0), noisy(40, 1, 0.3, 1)
    once = speedup(arm_of(base), arm_of(method, Arm.METHOD)).decode
    often = speedup(arm_of(np.tile(base, 5)), arm_of(np.tile(method, 5), Arm.METHOD)).decode
    assert once is not None
    assert often is not None
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_pairing_makes_a_constant_ratio_certain() -> None:
    base = noisy(50, 3, 0.5, 0)
    got = speedup(arm_of(base), arm_of(base / 1.5, Arm.METHOD)).decode
    assert got is not None
    assert (got.low, got.estimate, got.high) == pytest.approx((1.5, 1.5, 1.5))


def test_a_day_with_another_speedup_widens_the_interval() -> None:
    base = noisy(30, 2, 0.1, 0)
    method = base / 1.5

    def over_two_sessions(factor: float) -> float:
        baseline = [*arm_of(base), *arm_of(base, session=1)]
        arms = [*arm_of(method, Arm.METHOD), *arm_of(factor * method, Arm.METHOD, session=1)]
        got = speedup(baseline, arms).decode
        assert got is not None
        return got.high / got.low

    assert over_two_sessions(1.0) == pytest.approx(1.0)
    assert over_two_sessions(1.1) > 1.1


def test_one_question_gives_an_estimate_without_an_interval() -> None:
    got = speedup(arm_of([[3.0]]), arm_of([[2.0]], Arm.METHOD)).decode
    assert got is not None
    assert got.estimate == pytest.approx(1.5)
    assert not got.is_known
    assert not got.contains(1.5)


def test_no_work_at_all_is_undefined() -> None:
    base, method = [sample(0, 0.0, tokens=0)], [sample(0, 0.0, Arm.METHOD, tokens=0)]
    assert speedup(base, method).decode is None
    assert speedup(base, method).end_to_end is not None
    works = Costs.by_question({"a": [Work(0, 0.0)], "b": [Work(0, 0.0)]})
    for estimate in (faster_by, faster_by_total):
        with pytest.raises(UndefinedError, match="share no question"):
            estimate(works, "a", "b")


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0], ids=["zero", "one", "per cent"])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        speedup(arm_of([[1.0], [1.0]]), arm_of([[1.0], [2.0]], Arm.METHOD), level)


# --- costs of samples


def test_turns_add_up_and_so_do_both_baselines() -> None:
    both = [sample(0, 1.0), sample(0, 2.0, turn=1), sample(1, 4.0)]
    both += [sample(0, 3.0, Arm.CONTROL), sample(0, 5.0, Arm.CONTROL, turn=1), sample(1, 7.0, Arm.CONTROL)]
    costs = costs_of({"plain": both})
    assert costs.seconds[0, :, 0, 0].tolist() == [11.0, 11.0]
    assert costs.tokens[0, :, 0, 0].tolist() == [40.0, 20.0]


@pytest.mark.parametrize(("work", "seconds"), [(decode_work, 2.0), (end_to_end_work, 2.5)])
def test_repeats_count_anew_in_each_session(work: Callable[[Sample], Work], seconds: float) -> None:
    samples = [sample(0, 2.0, repeat=repeat, session=repeat // 2) for repeat in range(4)]
    assert costs_of({"a": samples}, work).seconds[0].tolist() == [[[seconds] * 2] * 2]


@pytest.mark.parametrize("second", [[], [failed(0, 1, Arm.METHOD)]], ids=["missing", "failed"])
def test_a_question_that_lacks_a_turn_has_no_cost(second: list[Sample]) -> None:
    base = [sample(0, 1.0), sample(0, 1.0, turn=1)]
    costs = costs_of({"baseline": base, "method": [sample(0, 1.0, Arm.METHOD), *second]})
    assert costs.seconds[0, 0, 0, 0] == 2.0
    assert np.isnan(costs.seconds[1, 0, 0, 0])


# --- the check of the baseline


def aa(seconds: object) -> tuple[float, float, float, bool | None]:
    check = baseline_check(arm_of(seconds))
    assert check is not None
    assert check.interval.level == 0.99
    return check.interval.low, check.interval.estimate, check.interval.high, check.is_valid


def test_aa_holds_for_noise() -> None:
    assert aa(noisy(100, 2, 0.05, 0))[3] is True


def test_aa_cancels_a_position_effect() -> None:
    """The second repeat is 10 % slower for every question: half of each half is slow."""
    _, estimate, _, is_valid = aa([[1.0, 1.1]] * 40)
    assert is_valid is True
    assert estimate == pytest.approx(1.0)


def test_aa_fails_where_the_halves_differ() -> None:
    seconds = noisy(40, 2, 0.01, 0)
    seconds[0::2, 0] *= 1.2  # half A: repeat 0 of even questions ...
    seconds[1::2, 1] *= 1.2  # ... and repeat 1 of odd ones
    low, estimate, _, is_valid = aa(seconds)
    first = seconds[0::2, 0].sum() + seconds[1::2, 1].sum()
    assert estimate == pytest.approx(first / (seconds.sum() - first))
    assert is_valid is False
    assert low > 1.1


def test_aa_fails_about_one_sound_run_in_a_hundred() -> None:
    failures = sum(aa(noisy(12, 2, 0.05, seed))[3] is False for seed in range(300))
    assert failures <= 9  # of 300, more than 9 would happen once in 1000 times


def test_aa_leaves_an_odd_last_repeat_out() -> None:
    seconds = noisy(10, 2, 0.1, 0)
    assert aa(np.column_stack([seconds, np.full(10, 99.0)])) == aa(seconds)


def test_aa_takes_sessions_of_one_repeat_as_repeats() -> None:
    seconds = noisy(10, 2, 0.1, 0)
    apart = [
        sample(prompt, float(seconds[prompt, session]), repeat=session, session=session)
        for session in range(2)
        for prompt in range(10)
    ]
    assert baseline_check(apart) == baseline_check(arm_of(seconds))


def test_aa_compares_the_control_where_there_is_one() -> None:
    seconds = noisy(20, 1, 0.1, 0)
    check = baseline_check([*arm_of(seconds), *arm_of(seconds * 1.25, Arm.CONTROL)])
    assert check is not None
    assert check.interval.estimate == pytest.approx(1 / 1.25)
    assert check.is_valid is False


def test_aa_needs_two_repeats_and_two_questions() -> None:
    assert baseline_check([]) is None
    assert baseline_check(arm_of([[1.0], [2.0]])) is None
    assert aa([[1.0, 2.0]])[3] is None


# --- variation over repeats


def variation(seconds: object, tokens: object = 10) -> Floats:
    spent = np.asarray(seconds, dtype=np.float64)[None, :, None]
    return repeat_variation(
        Costs(("a",), spent, np.broadcast_to(np.asarray(tokens, float), spent.shape)), "a"
    )


def test_variation_over_repeats_flags_the_unsteady_question() -> None:
    got = variation([[1.0, 1.0, 1.0], [1.0, 1.2, 1.4], [0.0, 1.0, 1.0]])
    assert got[0] == pytest.approx(0.0, abs=1e-12)
    assert got[1] == pytest.approx(0.2 / 1.2)
    assert np.isnan(got[2])
    assert np.flatnonzero(got > UNSTEADY).tolist() == [1]


def test_variation_compares_equal_work() -> None:
    assert variation([[1.0, 2.0]], [[10, 20]]) == pytest.approx(0.0, abs=1e-12)


def test_variation_needs_two_repeats() -> None:
    with pytest.raises(UndefinedError, match="at least 2 repeats"):
        variation([[1.0], [2.0]])
