"""What loading experts cost, from the counts of samples, and how the tables say it."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import pytest

from bench.metrics.counts import UndefinedError
from bench.metrics.experts import ExpertFigures, expert_figures
from bench.metrics.run_figures import Summary
from bench.records.model import Arm, Sample, Timing
from bench.show.expert_rows import arena_expert_rows, expert_rows

COUNTS = {
    "expert_slots": 24,
    "experts_in_all": 48,
    "experts_needed": 40,
    "experts_hit": 30,
    "experts_late": 4,
    "experts_loaded": 10,
    "experts_wasted": 1,
    "expert_bytes": 8000,
    "expert_stall_us": 500_000,
}
SAMPLE = Sample(
    "q1", "qa", 0, 0, Arm.METHOD, 1, ids=(1, 2, 3, 4, 5), timing=Timing(0.5, 2.0, {}, 1.0), counts=COUNTS
)


def test_figures_are_pooled_over_decoded_tokens() -> None:
    other = replace(SAMPLE, ids=tuple(range(13)), counts={**COUNTS, "experts_hit": 10, "expert_bytes": 0})
    assert expert_figures([SAMPLE, other]) == ExpertFigures(
        hit=0.5,
        late=0.1,
        wasted=0.1,
        bytes_per_token=500.0,
        stall_s_per_token=0.0625,
        stall=0.25,
        slots=24,
        total=48,
    )


def test_without_loads_none_were_wasted() -> None:
    assert expert_figures([replace(SAMPLE, counts={**COUNTS, "experts_loaded": 0})]).wasted is None


def test_other_methods_have_no_such_figures() -> None:
    with pytest.raises(UndefinedError):
        expert_figures([replace(SAMPLE, counts={"search_steps": 3})])
    assert list(expert_rows(None)) == []


def test_the_table_shows_hits_waste_bytes_and_waiting() -> None:
    assert list(expert_rows(expert_figures([SAMPLE]))) == [
        ("experts when needed", "75.0% in the fast store, 10.0% on their way; 10.0% of loads never used"),
        ("experts read", "2.0 kB per token; 125.00 ms of waiting per token, 25% of decoding"),
    ]


def test_the_arena_has_a_row_for_each_method_that_loads_experts() -> None:
    loading = Mock(spec=Summary, experts=expert_figures([SAMPLE]))
    rows = arena_expert_rows({"moe_lru": loading, "layerskip": Mock(spec=Summary, experts=None)})
    assert rows[1:] == [("moe_lru", "75.0%", "10.0%", "10.0%", "2.0 kB", "125.00 ms (25%)")]
    assert arena_expert_rows({"layerskip": Mock(spec=Summary, experts=None)}) == []
