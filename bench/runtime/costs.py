"""What a pass costs on this machine: seconds of a layer and of the head by number of rows.

For methods whose schedule depends on measured costs. They time nothing themselves: they ask for these once,
when they are attached.

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

CONTEXT = 128
"""Tokens in the cache while timing."""
TURNS = 5


@dataclass(frozen=True, slots=True)
class PassCosts:
    """Seconds by number of rows; between measured numbers linear, beyond the largest one its rate per row.

    Args:
        rows: Numbers of rows that were timed, ascending.
        layer_s: Of one layer.
        head_s: Of the final norm and the LM head.
    """

    rows: tuple[int, ...]
    layer_s: tuple[float, ...]
    head_s: tuple[float, ...]

    def layer(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of one layer for each number of rows."""
        return np.interp(rows, self.rows, self.layer_s)

    def head(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of the head for each number of rows."""
        return np.interp(rows, self.rows, self.head_s)


@torch.inference_mode()
def measure_costs(decoder: Decoder, rows: Sequence[int]) -> PassCosts:
    """Time passes of these many rows, in turns; of each the fastest counts, since noise can only add.

    Empties the cache.
    """
    context = max(1, min(CONTEXT, decoder.capacity - max(rows)))
    ids = torch.zeros(max(rows), dtype=torch.int64, device=decoder.device)
    decoder.prefill(torch.zeros(context, dtype=torch.int64, device=decoder.device))
    passes, heads = [float("inf")] * len(rows), [float("inf")] * len(rows)
    for _ in range(TURNS):
        for place, count in enumerate(rows):
            hidden = decoder.embed(ids[:count])
            spot = decoder.placement.chain(context, count)
            passes[place] = min(passes[place], _seconds(decoder, lambda: decoder.run_layers(hidden, spot)))  # noqa: B023 - called at once
            heads[place] = min(heads[place], _seconds(decoder, lambda: decoder.head(hidden)))  # noqa: B023
    decoder.cache.truncate(0)
    return PassCosts(tuple(rows), tuple(one / decoder.depth for one in passes), tuple(heads))


def _seconds(decoder: Decoder, call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    if decoder.device.type == "cuda":
        torch.cuda.synchronize(decoder.device)
    return time.perf_counter() - begun
