"""Waits for the first token, per token and per round, and their percentiles."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from bench.metrics.counts import UndefinedError
from bench.metrics.latency import Percentiles, latency
from bench.records.model import Arm, Round, Sample, Timing
from bench.records.rounds import Rounds


def sample(prefill_s: float, rounds_s: tuple[float, ...], tokens: int = 5) -> Sample:
    """An answer of so many tokens, each round with one of them."""
    rounds = tuple(Round(0, 0, 1, 0, "none") for _ in range(tokens - 1))
    return Sample(
        *("q", "qa", 0, 0, Arm.METHOD, 0),
        ids=tuple(range(tokens)),
        rounds=Rounds.of(rounds),
        timing=Timing(prefill_s, sum(rounds_s), {}, 1.0, array("d", rounds_s)),
    )


FAILED = Sample("q", "qa", 0, 1, Arm.METHOD, 0, error="out of memory")


def test_percentiles_are_interpolated() -> None:
    assert Percentiles.of(range(101)) == Percentiles(50, 90, 99)
    assert Percentiles.of([1.0, 2.0]) == Percentiles(1.5, 1.9, 1.99)
    assert Percentiles.of([]) is None


def test_first_token_and_tokens_count_by_answer_and_rounds_by_round() -> None:
    waits = latency([sample(0.1, (0.2, 0.2, 0.2, 0.2)), sample(0.3, (0.4, 0.4, 0.4, 0.8))])
    assert waits.first_token is not None
    assert waits.per_token is not None
    assert waits.per_round is not None
    assert waits.first_token.p50 == pytest.approx(0.2)
    assert waits.per_token.p50 == pytest.approx((0.2 + 0.5) / 2)
    assert waits.per_round.p50 == pytest.approx(0.3)
    assert waits.per_round.p99 == pytest.approx(0.4 + 0.93 * 0.4)


def test_an_answer_of_one_token_has_no_wait_for_the_next() -> None:
    waits = latency([sample(0.1, (), tokens=1)])
    assert (waits.per_token, waits.per_round) == (None, None)
    assert waits.first_token == Percentiles(0.1, 0.1, 0.1)


def test_records_without_the_time_of_rounds_leave_only_that_figure_out() -> None:
    timed = sample(0.1, (0.2, 0.2, 0.2, 0.2))
    assert timed.timing is not None
    waits = latency([replace(timed, timing=replace(timed.timing, rounds_s=array("d")))])
    assert waits.per_round is None
    assert waits.per_token is not None


def test_a_failed_answer_counts_nowhere() -> None:
    timed = sample(0.1, (0.2, 0.2, 0.2, 0.2))
    assert latency([timed, FAILED]) == latency([timed])
    with pytest.raises(UndefinedError, match="needs a measured sample"):
        latency([FAILED])
