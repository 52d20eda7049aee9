"""Timed passes of a decoder: what rows, layers, the head, the host and the memory cost on this machine.

Probes take turns and each keeps its fastest turn: whatever else the machine does can only add. A turn is
timed right behind an untimed call of the same probe, for decoding repeats itself as well: on a CPU a pass is
some percent slower behind one of another kind, which has left other weights in the caches.

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
_BUFFER_BYTES = 1 << 28  # beyond the last cache of a CPU; a run should not set aside a second model on a GPU


@dataclass(frozen=True, slots=True)
class Turns:
    """How long to probe: so many turns, or fewer once the time is up, but never below `LEAST_TURNS`."""

    most: int = 5
    limit_s: float = 2.0


@torch.inference_mode()
def fastest(
    calls: Mapping[Key, Callable[[], object]], turns: Turns, synchronize: Callable[[], None]
) -> dict[Key, float]:
    """Seconds of each call at its fastest; one turn is every call twice, the second time timed."""
    found = dict.fromkeys(calls, math.inf)
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
            found[key] = min(found[key], time.perf_counter() - start)
    return found


def row_counts(wanted: Iterable[int]) -> list[int]:
    """The entries of `ROW_COUNTS` that a curve needs to answer for the wanted numbers of rows."""
    above = {next((one for one in ROW_COUNTS if one >= count), ROW_COUNTS[-1]) for count in wanted}
    below = {max(one for one in ROW_COUNTS if one <= count) for count in wanted}
    return sorted({1} | above | below)


def measure_costs(decoder: Decoder, context: int, rows: Iterable[int], turns: Turns) -> Costs:
    """Time passes of the target behind `context` random tokens; the cache is left with those.

    Args:
        decoder: The target.
        context: Tokens in the cache; cut to what leaves room for the largest pass.
        rows: Row counts of the curve; 1 is always one of them.
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
    found = fastest(calls, turns, synchronizer(decoder.device))
    decoder.cache.truncate(context)
    passes, heads = (
        Curve.of({count: seconds for (what, count), seconds in found.items() if what == kind})
        for kind in ("pass", "head")
    )
    return Costs(context, decoder.depth, passes, heads, found["dispatch", 1])


def measure_ranges(decoder: Decoder, context: int, turns: Turns) -> dict[int, float]:
    """Seconds of one row through the first 1, 2, L/4, L/2 and L layers, without the head."""
    context = max(1, min(context, decoder.capacity - 1))
    ids = fill_cache(decoder, context, 1)
    hidden, depth = decoder.embed(ids), decoder.depth
    place = decoder.placement.chain(context, 1)
    stops = sorted({1, min(2, depth), max(1, depth // 4), max(1, depth // 2), depth})
    calls = {stop: partial(decoder.run_layers, hidden, place, 0, stop) for stop in stops}
    found = fastest(calls, turns, synchronizer(decoder.device))
    decoder.cache.truncate(context)
    return found


@torch.inference_mode()
def fill_cache(decoder: Decoder, context: int, more: int) -> Tensor:
    """Run `context` seeded random tokens; `more` further ones, shape [more]."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(decoder.config.vocab, (context + more,), generator=generator).to(decoder.device)
    decoder.prefill(ids[:context])
    return ids[context:]


def read_bandwidth(size_bytes: int, dtype: torch.dtype, device: torch.device, turns: Turns) -> float:
    """Bytes per second at which the device reads a buffer over and over: the better of two kernels.

    A matrix-vector product is what decoding does; a sum reads without multiplying. Nothing is written back,
    as in decoding: a copy would count two directions.

    Args:
        size_bytes: Of the buffer; far above the last cache to measure memory, or a model's own size.
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
