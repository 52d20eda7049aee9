"""Whether the Flash kernel and the mask agree on this GPU, in the shapes of one model.

Both ways attend to the same made-up chains, whose lengths lie on both sides of the ends of buckets. The keys
of a chain, and the first one after it, weigh as much as all earlier slots together, so that a row that sees a
slot too few or too many is far off.

Shapes: R rows of a pass, B >= R rows of its recording, C columns (slots read), H query heads, Hkv key/value
heads, D head width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from bench.runtime.attention import attend
from bench.runtime.tiers.graph.lengths import (
    ChainAttention,
    attend_by_length,
    length_rows,
    may_have_padding,
    why_masked,
)
from bench.runtime.tiers.graph.sizes import column_size, row_size

if TYPE_CHECKING:
    from bench.runtime.tiers.graph.decoder import GraphDecoder

CHECKED_ROWS = (1, 2, 8, 9, 16)
"""Of the passes; those of 9 rows have a row of padding."""
CHECKED_ENDS = (24, 128, 129, 192, 193, 4096, 4097)
"""Slots up to the last row: both sides of the ends of buckets, as far as the cache holds them."""
TOLERANCE = {torch.float16: 0.005}
"""How far outputs may lie apart where values are 1 or -1; in other precisions `COARSE_TOLERANCE`. One slot
too few or too many moves some of them by 0.5 or more."""
COARSE_TOLERANCE = 0.025
NOISE = 0.3
log = logging.getLogger(__name__)


class Chain(NamedTuple):
    """A pass to compare.

    Args:
        rows: How many (R).
        end: Slots up to the last row.
    """

    rows: int
    end: int


def checked_attention(decoder: GraphDecoder) -> ChainAttention:
    """``lengths`` if the model may attend so, else ``masked`` with a line that says why."""
    reason = why_masked(decoder) or length_fault(decoder)
    if reason is None:
        return "lengths"
    log.warning("the second model's chains attend under masks: %s", reason)
    return "masked"


@torch.inference_mode()
def length_fault(decoder: GraphDecoder) -> str | None:
    """In what the Flash kernel and the mask disagree, for a model that `why_masked` lets attend by length.

    None if they agree. Empties the cache.
    """
    chains = list(_chains(decoder.capacity))
    try:
        apart = torch.stack([_apart(decoder, chain) for chain in chains]).tolist()
    except RuntimeError as error:
        return f"the Flash kernel fails ({str(error).splitlines()[0]})"
    finally:
        decoder.slots.truncate(0)
        decoder.slots.mark_written()
    limit = TOLERANCE.get(decoder.dtype, COARSE_TOLERANCE)
    for chain, distance in zip(chains, apart, strict=True):
        if not distance <= limit:  # true for NaN as well
            where = f"in a pass of M = {chain.rows} rows up to slot {chain.end - 1}"
            return f"the Flash kernel is off by {distance:.2g} (rounding: at most {limit}) {where}"
    return None


def _chains(capacity: int) -> Iterator[Chain]:
    ends = sorted({min(end, capacity) for end in CHECKED_ENDS})
    return (Chain(count, end) for end in ends for count in CHECKED_ROWS if count <= end)


def _apart(decoder: GraphDecoder, chain: Chain) -> Tensor:
    """The largest difference between the two ways, over all rows, heads and channels; on the device."""
    queries, keys, values = _made_up(decoder, chain)
    size, columns = queries.shape[0], keys.shape[1]
    positions = torch.arange(size, device=decoder.device) + (chain.end - chain.rows)
    writes = torch.full_like(positions[:1], chain.rows) if may_have_padding(size) else None
    scale = decoder.layers[0].attention.score_scale
    masked = attend(queries, keys, values, decoder.placement.chain_at(positions, columns), scale)
    placed = length_rows(decoder.placement, positions, columns, writes)
    assert placed.lengths is not None
    short = attend_by_length(queries, keys, values, placed.lengths, scale)
    return (masked - short)[: chain.rows].abs().float().amax()


def _made_up(decoder: GraphDecoder, chain: Chain) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, H, D], keys and values [Hkv, C, D], the latter in the cache's own memory.

    A query lies near a direction that its key/value head has; the chain's keys lie in it, earlier keys
    anywhere.
    """
    config = decoder.config
    heads, width = config.kv_heads, config.head_dim
    rows, columns = row_size(chain.rows), column_size(chain.end, decoder.capacity)
    start = chain.end - chain.rows
    dice = torch.Generator(decoder.device)
    dice.manual_seed(chain.end)
    draw = partial(torch.randn, generator=dice, device=decoder.device)
    scale = decoder.layers[0].attention.score_scale or width**-0.5
    size = math.sqrt((math.log(chain.end) + 1) / (width * scale))  # a chain's key weighs as all earlier ones
    direction = draw(heads, 1, width).sign()
    toward = direction.repeat_interleave(config.heads // heads, dim=0).transpose(0, 1)  # [1, H, D]
    queries = size * (toward + NOISE * draw(rows, config.heads, width))
    keys = draw(heads, columns, width) / (scale * size * math.sqrt(width))
    keys[:, start : chain.end + 1] = size * direction
    values = draw(heads, columns, width).sign()
    stored = decoder.slots.stores[0].narrow(2, 0, columns)
    stored.copy_(torch.stack([keys, values]))
    return queries.to(decoder.dtype), stored[0], stored[1]
