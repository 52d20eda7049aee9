"""What a search costs: cold and warm speeds, its share of the time, how long it went on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.metrics.counts import UndefinedError
from bench.metrics.search_cost import search_cost, skipped_share
from bench.metrics.summary import render, summarise
from bench.records.codec import decode_sample, encode_sample
from bench.records.model import Arm, Generation, Round, Run, Sample, Timing

ROUNDS = tuple(Round(4, 3, 4, 4, "length") for _ in range(2))


def sample(prompt: int, search_s: float, decode_s: float, **counts: int) -> Sample:
    """An answer of nine tokens in two rounds."""
    timing = Timing(0.5, decode_s, {"draft": 0.5, "search": search_s}, decode_s)
    return Sample(
        f"q{prompt}",
        "qa",
        0,
        0,
        Arm.METHOD,
        1,
        ids=tuple(range(9)),
        rounds=ROUNDS,
        timing=timing,
        counts=counts,
    )


COLD = sample(1, 2.0, 4.0, searching_rounds=2, search_steps=2)
LAST = sample(2, 1.0, 3.0, searching_rounds=1, search_steps=1)
WARM = sample(3, 0.0, 1.0, searching_rounds=0, search_steps=0)


def test_speed_is_told_cold_warm_and_in_total_and_the_searchs_share_is_of_all() -> None:
    got = search_cost([COLD, LAST, WARM])
    assert (got.cold, got.warm, got.total) == pytest.approx((16 / 7, 8.0, 24 / 8))
    assert got.share == pytest.approx(3 / 8)
    assert (got.rounds, got.steps, got.is_over) == (3, 3, True)


def test_a_search_that_is_not_over_has_no_warm_speed() -> None:
    got = search_cost([COLD, LAST])
    assert (got.warm, got.is_over) == (None, False)


def test_an_answer_too_short_to_be_searched_on_is_cold_while_the_search_is_on() -> None:
    short = sample(4, 0.0, 2.0, searching_rounds=2, search_steps=0)
    assert search_cost([short, WARM]).cold == pytest.approx(4.0)


def test_methods_that_do_not_search_have_no_cost_and_those_that_do_not_skip_no_share() -> None:
    plain = sample(1, 0.0, 4.0)
    for undefined in (search_cost, skipped_share):
        with pytest.raises(UndefinedError):
            undefined([plain])


def test_the_skipped_share_is_pooled_over_rounds() -> None:
    few = sample(1, 0.0, 1.0, skipped_sublayers=10, sublayers=20)
    many = sample(2, 0.0, 1.0, skipped_sublayers=10, sublayers=60)
    assert skipped_share([few, many]) == pytest.approx(0.25)


def test_the_table_shows_both_where_there_are_any() -> None:
    run = Run("swift-qa-tiny-0badcafe", "swift", "qa", "tiny", {}, {})
    skipping = [
        replace(one, counts={**one.counts, "skipped_sublayers": 9, "sublayers": 20}) for one in (COLD, WARM)
    ]
    text = render(summarise(run, skipping, resamples=50))
    assert "cold 2.0, warm 8.0, total 3.2 tokens/s" in text
    assert "40.0% of decode time; 2 scores; over after 2 rounds" in text
    assert "45.0% of sub-layers" in text
    assert "search 40%" in text
    plain = render(summarise(run, [sample(1, 0.0, 4.0)], resamples=50))
    assert "search" not in plain
    assert "skips" not in plain


def test_counts_survive_the_cut_and_json_and_old_records_have_none() -> None:
    got = Generation(tuple(range(9)), ROUNDS, {"search_steps": 3}).cut(4, frozenset())
    assert got.counts == {"search_steps": 3}
    record = encode_sample(COLD)
    assert decode_sample(record) == COLD
    del record["counts"]
    assert decode_sample(record).counts == {}
