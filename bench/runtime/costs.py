"""What a pass costs on this machine: seconds of a layer and of the head by number of rows.

A method whose schedule depends on measured costs calls `measure_costs` once, when it is attached to a
decoder.

Shapes: R rows, L layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftHead

CONTEXT = 128
"""Tokens in the cache while timing."""
REPEATS = 5
"""Timings of each pass."""


@dataclass(frozen=True, slots=True)
class PassCosts:
    """Seconds by number of rows: between the timed numbers interpolated, outside them that of the nearest.

    Args:
        rows: Numbers of rows that were timed, ascending.
        layer_s: Seconds of one layer at each of them.
        head_s: Seconds of the final norm and the LM head.
        draft_head_s: Seconds of the head that drafts, for one row.
    """

    rows: tuple[int, ...]
    layer_s: tuple[float, ...]
    head_s: tuple[float, ...]
    draft_head_s: float

    def layer(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of one layer for each number of rows."""
        return np.interp(rows, self.rows, self.layer_s)

    def head(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of the head for each number of rows."""
        return np.interp(rows, self.rows, self.head_s)


@torch.inference_mode()
def measure_costs(decoder: Decoder, rows: Sequence[int], draft_head: DraftHead) -> PassCosts:
    """Time passes of several sizes, alternating; the fastest of each counts, since noise can only add time.

    Empties the cache.

    Args:
        decoder: The model to time.
        rows: Numbers of rows, ascending.
        draft_head: The head that drafts.
    """
    context = max(1, min(CONTEXT, decoder.capacity - max(rows)))
    ids = torch.zeros(max(rows), dtype=torch.int64, device=decoder.device)
    decoder.prefill(torch.zeros(context, dtype=torch.int64, device=decoder.device))
    passes, heads = [float("inf")] * len(rows), [float("inf")] * len(rows)
    draft_s = float("inf")
    for _ in range(REPEATS):
        one_row = decoder.embed(ids[:1])
        draft_s = min(draft_s, _seconds(decoder, lambda: draft_head(one_row)))  # noqa: B023 - called at once
        for place, count in enumerate(rows):
            hidden = decoder.embed(ids[:count])
            spot = decoder.placement.chain(context, count)
            passes[place] = min(passes[place], _seconds(decoder, lambda: decoder.run_layers(hidden, spot)))  # noqa: B023 - called at once
            heads[place] = min(heads[place], _seconds(decoder, lambda: decoder.head(hidden)))  # noqa: B023
    decoder.cache.truncate(0)
    layers = tuple(seconds / decoder.depth for seconds in passes)
    return PassCosts(tuple(rows), layers, tuple(heads), draft_s)


def _seconds(decoder: Decoder, call: Callable[[], object]) -> float:
    is_cuda = decoder.device.type == "cuda"
    if is_cuda:
        torch.cuda.synchronize(decoder.device)  # earlier work is not part of this call
    begun = time.perf_counter()
    call()
    if is_cuda:
        torch.cuda.synchronize(decoder.device)
    return time.perf_counter() - begun
