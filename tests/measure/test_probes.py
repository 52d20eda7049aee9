"""Probes take turns, keep the fastest time, and leave the cache as it was."""

import math

import torch

from bench.measure.probes import (
    LEAST_TURNS,
    Turns,
    fastest,
    measure_costs,
    measure_ranges,
    read_bandwidth,
    row_counts,
    weight_bytes,
)
from tests.methods.small import CPU, random_decoder

QUICK = Turns(most=1)


def test_calls_take_turns_and_each_is_timed_behind_one_of_its_own_kind() -> None:
    order: list[str] = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    best = fastest(calls, Turns(most=2), lambda: None)
    assert order == ["a", "a", "b", "b"] * 2
    assert all(0 <= seconds < math.inf for seconds in best.values())


def test_time_ends_the_turns_but_for_the_least() -> None:
    count: list[int] = []
    fastest({"a": lambda: count.append(1)}, Turns(most=50, limit_s=0.0), lambda: None)
    assert len(count) == 2 * LEAST_TURNS


def test_the_device_is_awaited_on_both_sides_of_a_timed_call() -> None:
    events: list[str] = []
    fastest({"a": lambda: events.append("call")}, Turns(most=1), lambda: events.append("wait"))
    assert events == ["call", "wait", "call", "wait"]


def test_a_curve_is_measured_around_the_rows_that_occur() -> None:
    assert row_counts([7]) == [1, 7]
    assert row_counts([26, 3]) == [1, 3, 24, 28]
    assert row_counts([100]) == [1, 64]


def test_costs_of_a_small_model() -> None:
    decoder = random_decoder()
    costs = measure_costs(decoder, 20, [4, 2], QUICK)
    assert (costs.context, costs.depth, costs.passes.rows, costs.head.rows) == (20, 6, (1, 2, 4), (1, 2, 4))
    assert min(costs.passes.seconds + costs.head.seconds) > 0
    assert costs.dispatch_s > 0
    assert decoder.cache.length == 20


def test_a_context_beyond_the_cache_leaves_room_for_the_rows() -> None:
    assert measure_costs(random_decoder(), 1000, [8], QUICK).context == 256 - 8


def test_ranges_start_at_the_first_layer() -> None:
    assert list(measure_ranges(random_decoder(), 20, QUICK)) == [1, 2, 3, 6]


def test_bandwidth_is_read_bytes_over_seconds() -> None:
    assert read_bandwidth(1 << 20, torch.float32, CPU, QUICK) > 1e6


def test_a_pass_reads_every_weight_but_the_embedding() -> None:
    decoder = random_decoder()
    assert weight_bytes(decoder) == 4 * (decoder.parameters - decoder.embedding.numel())
