"""The machine's rows of the final table: prediction, bandwidth, memory, energy."""

from dataclasses import replace

import pytest

from bench.metrics.resources import UNMEASURED, Resources, resources
from bench.metrics.roofline import Costs, Curve, Probe
from bench.records.model import Arm, Sample, Timing
from bench.show.machine_table import byte_size, machine_rows, prediction_rows

COSTS = Costs(100, 8, Curve((1, 4), (0.010, 0.015)), Curve((1, 4), (0.001, 0.001)), 0.002)
PROBE = Probe(COSTS, weight_bytes=20_000_000, token_bytes=20_000, read_bytes_per_s=4.4e9)


def test_a_prediction_stands_beside_the_curve_it_comes_from() -> None:
    assert prediction_rows(PROBE, 1.5) == [("  predicted", "1.500x", "t(1) 10.00 ms, t(4) 1.50 times that")]
    assert prediction_rows(None, 1.5) == prediction_rows(PROBE, None) == []


def test_the_baseline_is_held_against_what_the_machine_can_read() -> None:
    rows = dict(machine_rows(PROBE, 100.0, [UNMEASURED, UNMEASURED]))
    assert rows["baseline reads"] == "2.2 GB/s, 50% of what this machine can; dispatch 20% of t(1)"
    assert rows["memory"] == "weights 20.0 MB, cache 20.0 kB per token"
    assert set(rows) == {"baseline reads", "memory"}


def test_peaks_and_energy_are_shown_where_they_are_known() -> None:
    arms = [Resources(2_000_000_000, 3_000_000_000, 1.5), Resources(2_500_000_000, 3_000_000_000, None)]
    rows = dict(machine_rows(None, None, arms))
    assert rows["peak memory"] == "allocated 2.0 GB, 2.5 GB; reserved 3.0 GB, 3.0 GB (baseline, method)"
    assert rows["energy"] == "1.50, - J per token (baseline, method)"
    assert machine_rows(None, None, [UNMEASURED, UNMEASURED]) == []


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 B"), (20_480, "20.5 kB"), (21_600_000, "21.6 MB"), (13 * 10**9, "13.0 GB")]
)
def test_bytes_have_decimal_units(count: int, text: str) -> None:
    assert byte_size(count) == text


SAMPLE = Sample("q", "qa", 0, 0, Arm.METHOD, 0, ids=(1, 2), timing=Timing(1.0, 1.0, {}, 1.0))


def test_an_arms_peak_is_its_largest_and_its_energy_is_pooled() -> None:
    first = replace(SAMPLE, peak_memory_bytes=5, peak_reserved_bytes=8, energy_j=3.0)
    second = replace(first, peak_memory_bytes=7, ids=(1, 2, 3, 4), energy_j=9.0)
    assert resources([first, second]) == Resources(7, 8, 2.0)


def test_a_missing_reading_leaves_the_figure_unknown() -> None:
    assert resources([replace(SAMPLE, energy_j=3.0), SAMPLE]) == UNMEASURED
    assert resources([]) == UNMEASURED
