"""What one row costs in the two halves of a layer, by the length of the text, and in the head.

A method that weighs attention against MLPs takes them once, when it is attached to a decoder: in numbers read
(`SublayerCosts.of_weights`), which are the same everywhere, or in seconds of this machine
(`measure_sublayers`).

Shapes: L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bench.runtime.costs import _seconds
from bench.runtime.decoder import Decoder, Skip
from bench.runtime.layers import Mlp
from bench.runtime.moe import Moe
from bench.runtime.sampling import DraftHead

SHARES = (0.1, 0.4, 0.7, 0.95)
"""Lengths of text that are timed, as shares of the cache's capacity."""
REPEATS = 5
"""Timings of each pass."""


@dataclass(frozen=True, slots=True)
class SublayerCosts:
    """Cost of one row, in seconds or in any other unit.

    Args:
        attention: Of one attention sub-layer over an empty cache.
        attention_per_token: What each cached token adds to it.
        mlp: Of one MLP sub-layer.
        head: Of the final norm and the head that drafts.
    """

    attention: float
    attention_per_token: float
    mlp: float
    head: float

    @classmethod
    def of_weights(cls, decoder: Decoder, draft_head: DraftHead) -> SublayerCosts:
        """In numbers that a row reads: weights, keys and values."""
        config, layer = decoder.config, decoder.layers[0]
        attention = layer.attention.qkv.parameters + layer.attention.o.parameters
        mlp = mlp_parameters(layer.mlp)
        per_token = 2 * config.kv_heads * config.head_dim
        return cls(float(attention), float(per_token), float(mlp), float(draft_head.lm_head.parameters))

    def attention_at(self, length: int) -> float:
        """Cost of one attention sub-layer over `length` cached tokens."""
        return self.attention + self.attention_per_token * length


def mlp_parameters(mlp: Mlp | Moe | None) -> int:
    """Weights of an MLP, or of a mixture of experts, that one row reads."""
    if isinstance(mlp, Moe):
        return mlp.active_parameters
    return 0 if mlp is None else mlp.gate_up.parameters + mlp.down.parameters


@torch.inference_mode()
def measure_sublayers(decoder: Decoder, draft_head: DraftHead) -> SublayerCosts:
    """Time single rows over texts of several lengths; the fastest of each counts: noise can only add time.

    Empties the cache. What the cache holds does not matter, so no text runs through the model.
    """
    every = frozenset(range(decoder.depth))
    lengths = sorted({int(share * (decoder.capacity - 1)) for share in SHARES})
    row = decoder.embed(torch.zeros(1, dtype=torch.int64, device=decoder.device))
    attention, mlp = [float("inf")] * len(lengths), float("inf")
    no_mlp, no_attention = Skip(mlp=every), Skip(attention=every)
    head = float("inf")
    for _ in range(REPEATS):
        head = min(head, _seconds(decoder, lambda: draft_head(row)))
        for place, length in enumerate(lengths):
            decoder.placement.begin(length)
            decoder.cache.truncate(0)
            decoder.cache.advance(range(decoder.depth), 0, length)
            spot = decoder.placement.chain(length, 1)
            run = decoder.run_layers
            attention[place] = min(attention[place], _seconds(decoder, lambda: run(row, spot, skip=no_mlp)))  # noqa: B023 - called at once
            mlp = min(mlp, _seconds(decoder, lambda: run(row, spot, skip=no_attention)))  # noqa: B023
    decoder.cache.truncate(0)
    slope = max(0.0, float(np.polyfit(lengths, attention, 1)[0])) if len(lengths) > 1 else 0.0
    base = max(0.0, float(np.mean(attention) - slope * np.mean(lengths)))
    return SublayerCosts(base / decoder.depth, slope / decoder.depth, mlp / decoder.depth, head)
