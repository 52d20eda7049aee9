"""Memory and energy of an arm, the cost of a search (speeds during it and after it), and figures as text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.metrics.counts import UndefinedError
from bench.metrics.intervals import Interval
from bench.metrics.run_figures import (
    UNMEASURED,
    Resources,
    number,
    resources,
    search_cost,
    skipped_share,
    speedup,
)
from bench.metrics.summary import summarise
from bench.records.codec import decode_sample, encode_sample
from bench.records.model import Arm, Generation, Round, Run, Sample, Timing
from bench.records.rounds import Rounds
from bench.show.table import run_table

ROUNDS = tuple(Round(4, 3, 4, 4, "length") for _ in range(2))
SAMPLE = Sample("q", "qa", 0, 0, Arm.METHOD, 0, ids=(1, 2), timing=Timing(1.0, 1.0, {}, 1.0))


def sample(prompt: int, search_s: float, decode_s: float, **counts: int) -> Sample:
    """An answer of nine tokens in two rounds."""
    timing = Timing(0.5, decode_s, {"draft": 0.5, "search": search_s}, decode_s)
    answer = Sample(
        f"q{prompt}", "qa", 0, 0, Arm.METHOD, 1, ids=tuple(range(9)), rounds=Rounds.of(ROUNDS), timing=timing
    )
    return replace(answer, counts=counts)


COLD = sample(1, 2.0, 4.0, searching_rounds=2, search_steps=2)
LAST = sample(2, 1.0, 3.0, searching_rounds=1, search_steps=1)
WARM = sample(3, 0.0, 1.0, searching_rounds=0, search_steps=0)


def test_an_arms_peak_is_its_largest_and_its_energy_is_pooled() -> None:
    first = replace(SAMPLE, peak_memory_bytes=5, peak_reserved_bytes=8, energy_j=3.0)
    second = replace(first, peak_memory_bytes=7, ids=(1, 2, 3, 4), energy_j=9.0)
    assert resources([first, second]) == Resources(7, 8, 2.0)


def test_a_missing_reading_leaves_the_figure_unknown() -> None:
    assert resources([replace(SAMPLE, energy_j=3.0), SAMPLE]) == UNMEASURED
    assert resources([]) == UNMEASURED


def test_speed_is_given_during_and_after_the_search_and_overall() -> None:
    cost = search_cost([COLD, LAST, WARM])
    assert (cost.cold, cost.warm, cost.total) == pytest.approx((16 / 7, 8.0, 24 / 8))
    assert cost.share == pytest.approx(3 / 8)
    assert (cost.rounds, cost.steps, cost.has_ended) == (3, 3, True)


def test_a_search_that_has_not_ended_has_no_speed_after_it() -> None:
    cost = search_cost([COLD, LAST])
    assert (cost.warm, cost.has_ended) == (None, False)


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
        replace(answer, counts={**answer.counts, "skipped_sublayers": 9, "sublayers": 20})
        for answer in (COLD, WARM)
    ]
    text = run_table(summarise(run, skipping))
    assert "during it 2.0, after it 8.0, overall 3.2" in text
    assert "40.0% of decode time; 2 candidates scored; ended after 2 rounds" in text
    assert "45.0% while drafting" in text
    assert "search 40%" in text
    plain = run_table(summarise(run, [sample(1, 0.0, 4.0)]))
    assert "search" not in plain
    assert "sub-layers" not in plain


def test_counts_survive_the_cut_and_json_and_old_records_have_none() -> None:
    cut = Generation(tuple(range(9)), ROUNDS, {"search_steps": 3}).cut(4, frozenset())
    assert cut.counts == {"search_steps": 3}
    record = encode_sample(COLD)
    assert decode_sample(record) == COLD
    del record["counts"]
    assert decode_sample(record).counts == {}


def test_an_undefined_number_is_a_dash() -> None:
    assert (number(None), number(0.0), number(1.234, ".1f", " ms")) == ("-", "0.00", "1.2 ms")
    nan = float("nan")
    assert speedup(None) == speedup(Interval(nan, nan, nan, 0.95)) == "-"
    assert speedup(Interval(1.5, nan, nan, 0.95)) == "1.50x"
    assert speedup(Interval(1.5, nan, nan, 0.95), 3, " [-, -]") == "1.500x [-, -]"
    assert speedup(Interval(1.5, 1.25, 1.75, 0.95), 3) == "1.500x [1.250, 1.750]"
    assert speedup(Interval(1.5, 0.001, 1e9, 0.99)) == "1.50x [0.00, >999]"
