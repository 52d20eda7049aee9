"""Tie rate and margins of diverging outputs."""

from __future__ import annotations

import pytest

from bench.metrics.counts import UndefinedError
from bench.metrics.margins import Bin, divergence_margins, margin_histogram, tie_rate
from bench.records.model import Arm, Equivalence, Sample, Timing, Verdict

EXACT, UNCHECKED = Equivalence(Verdict.EXACT), Equivalence(Verdict.UNCHECKED)
TIE = Equivalence(Verdict.TIE_EXPLAINED, first_divergence=3, margin=0.06, tie_margin=0.0625, rank=1)
VIOLATION = Equivalence(Verdict.VIOLATION, first_divergence=0, margin=3.0, tie_margin=2.5, rank=4)


def sample(equivalence: Equivalence | None, tokens: int = 10) -> Sample:
    timing = Timing(0.1, 1.0, {}, 1.1)
    ids = tuple(range(tokens))
    return Sample("a", "qa", 0, 0, Arm.METHOD, 0, ids=ids, timing=timing, equivalence=equivalence)


def test_tie_rate_is_ties_per_judged_token() -> None:
    assert tie_rate([sample(EXACT, 30), sample(TIE, 10), sample(UNCHECKED, 99)]) == pytest.approx(1 / 40)


def test_tie_rate_needs_a_judged_output() -> None:
    with pytest.raises(UndefinedError):
        tie_rate([sample(UNCHECKED), sample(None)])


def test_margins_are_those_of_diverging_outputs() -> None:
    assert divergence_margins([sample(EXACT), sample(TIE), sample(None), sample(VIOLATION)]) == [0.0625, 2.5]


def test_histogram_counts_each_margin_once_and_drops_the_empty_ends() -> None:
    assert margin_histogram([0.0625, 2.5, 0.07], edges=[0, 0.0625, 0.125, 1, 4, 8]) == [
        Bin(0.0625, 0.125, 2),
        Bin(0.125, 1, 0),
        Bin(1, 4, 1),
    ]
    assert margin_histogram([]) == []


def test_a_margin_outside_all_bins_is_refused() -> None:
    with pytest.raises(ValueError, match="must lie in"):
        margin_histogram([-0.1])
