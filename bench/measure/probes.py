"""Timed passes of a decoder: what rows, layers, the head, the host and the memory cost on this machine.

Probes run in turn and each keeps its fastest time, because other work on the machine can only add to it. Each
timed call follows an untimed call of the same probe, since decoding repeats its passes as well: on a CPU a
pass is a few percent slower after one of another kind, which leaves other weights in the caches.

Shapes: M rows of a pass, L layers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from bench.measure.meters import synchronizer
from bench.metrics.roofline import Costs, Curve, Probe
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions
from bench.runtime.random_weights import thin_decoder

Key = TypeVar("Key", bound=Hashable)

LEAST_TURNS = 3
ROW_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64)
_COLUMNS = 4096
_BUFFER_BYTES = 1 << 28  # larger than a CPU's caches, and not a second model in a GPU's memory


@dataclass(frozen=True, slots=True)
class Turns:
    """How long to probe: `most` turns, or fewer once `limit_s` is reached, but at least `LEAST_TURNS`."""

    most: int = 5
    limit_s: float = 2.0


@torch.inference_mode()
def fastest(
    calls: Mapping[Key, Callable[[], object]], turns: Turns, synchronize: Callable[[], None]
) -> dict[Key, float]:
    """Seconds of each call at its fastest; a turn makes every call twice and times the second one."""
    best = dict.fromkeys(calls, math.inf)
    begun = time.perf_counter()
    for turn in range(turns.most):
        if turn >= LEAST_TURNS and time.perf_counter() - begun > turns.limit_s:
            break
        for key, call in calls.items():
            call()
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            best[key] = min(best[key], time.perf_counter() - start)
    return best


def row_counts(numbers: Iterable[int]) -> list[int]:
    """The entries of `ROW_COUNTS` between which a curve holds these numbers of rows."""
    numbers = set(numbers)
    above = {next((rows for rows in ROW_COUNTS if rows >= number), ROW_COUNTS[-1]) for number in numbers}
    below = {max(rows for rows in ROW_COUNTS if rows <= number) for number in numbers}
    return sorted({1} | above | below)


def measure_costs(decoder: Decoder, context: int, rows: Iterable[int], turns: Turns) -> Costs:
    """Time passes of the target after `context` random tokens, which stay in the cache.

    Args:
        decoder: The target.
        context: Tokens in the cache; fewer if there is no room for the largest pass otherwise.
        rows: Row counts of the curve; 1 is always added.
        turns: How long to probe.
    """
    counts = sorted({1, *rows})
    context = max(1, min(context, decoder.capacity - counts[-1]))
    ids = fill_cache(decoder, context, counts[-1])
    thin = thin_decoder(decoder.depth, RuntimeOptions(decoder.device, decoder.dtype, 8, decoder.tier))
    hidden = decoder.embed(ids)
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    for count in counts:
        calls["pass", count] = partial(decoder.step, ids[:count], context)
        calls["head", count] = partial(decoder.head, hidden[:count])
    calls["dispatch", 1] = partial(thin.step, torch.zeros_like(ids[:1]), 0)
    times = fastest(calls, turns, synchronizer(decoder.device))
    decoder.cache.truncate(context)
    passes, heads = (
        Curve.of({count: seconds for (what, count), seconds in times.items() if what == kind})
        for kind in ("pass", "head")
    )
    return Costs(context, decoder.depth, passes, heads, times["dispatch", 1])


def measure_ranges(decoder: Decoder, context: int, turns: Turns) -> dict[int, float]:
    """Seconds of one row through the first 1, 2, L/4, L/2 and L layers, without the head."""
    context = max(1, min(context, decoder.capacity - 1))
    ids = fill_cache(decoder, context, 1)
    hidden, depth = decoder.embed(ids), decoder.depth
    place = decoder.placement.chain(context, 1)
    stops = sorted({1, min(2, depth), max(1, depth // 4), max(1, depth // 2), depth})
    calls = {stop: partial(decoder.run_layers, hidden, place, 0, stop) for stop in stops}
    times = fastest(calls, turns, synchronizer(decoder.device))
    decoder.cache.truncate(context)
    return times


@torch.inference_mode()
def fill_cache(decoder: Decoder, context: int, more: int) -> Tensor:
    """Prefill `context` seeded random tokens and return `more` further ones, shape [more]."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(decoder.config.vocab, (context + more,), generator=generator).to(decoder.device)
    decoder.prefill(ids[:context])
    return ids[context:]


def read_bandwidth(size_bytes: int, dtype: torch.dtype, device: torch.device, turns: Turns) -> float:
    """Bytes per second at which the device reads a buffer again and again: the better of two kernels.

    Decoding consists of matrix-vector products; a sum reads without multiplying. Like decoding, neither
    writes the buffer back; a copy would count two directions.

    Args:
        size_bytes: Of the buffer: far above the CPU's caches to measure memory, or a model's own size.
        dtype: Of its elements.
        device: Where it lies.
        turns: How long to probe.
    """
    lines = max(1, size_bytes // (_COLUMNS * dtype.itemsize))
    matrix = torch.ones(lines, _COLUMNS, dtype=dtype, device=device)
    vector = torch.ones(_COLUMNS, dtype=dtype, device=device)
    out = torch.empty(lines, dtype=dtype, device=device)
    calls: dict[str, Callable[[], object]] = {
        "product": partial(torch.mv, matrix, vector, out=out),
        "sum": matrix.sum,
    }
    seconds = min(fastest(calls, turns, synchronizer(device)).values())
    return matrix.numel() * dtype.itemsize / seconds


def probe(decoder: Decoder, context: int, rows: Iterable[int]) -> Probe:
    """What a run needs to know of its machine, in a few seconds: see `bench.metrics.roofline.Probe`."""
    turns, weights = Turns(), weight_bytes(decoder)
    bandwidth = read_bandwidth(min(weights, _BUFFER_BYTES), decoder.dtype, decoder.device, turns)
    costs = measure_costs(decoder, context, rows, turns)
    return Probe(costs, weights, decoder.cache.token_bytes, bandwidth)


def weight_bytes(decoder: Decoder) -> int:
    """Bytes of weights that a pass reads."""
    return decoder.pass_parameters * decoder.dtype.itemsize
