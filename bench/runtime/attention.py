"""Attention of a pass's rows over the cache, in PyTorch's operations.

Shapes: R rows, H query heads, Hkv key/value heads, G = H / Hkv, D head width, N visible slots.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.rows import Rows

_FULL_PRECISIONS = (torch.float32, torch.float64)


def attend(queries: Tensor, keys: Tensor, values: Tensor, rows: Rows, scale: float | None = None) -> Tensor:
    """Softmax attention.

    The G query heads that share a key/value head are folded into the rows, so that keys and values are never
    copied.

    Args:
        queries: Shape [R, H, D].
        keys: Shape [Hkv, N, D].
        values: Shape [Hkv, N, D].
        rows: Says which slots each row sees.
        scale: Factor on the scores; ``1 / sqrt(D)`` by default.

    Returns:
        Shape [R, H D].
    """
    count, heads, width = queries.shape
    groups = heads // keys.shape[0]
    if rows.is_causal:
        mixed = F.scaled_dot_product_attention(
            queries.transpose(0, 1)[None],
            keys[None],
            values[None],
            is_causal=True,
            scale=scale,
            enable_gqa=groups > 1,
        )
        return mixed[0].transpose(0, 1).reshape(count, heads * width)
    if count == 1:
        return _attend_folded(queries.view(-1, groups, width), keys, values, rows.mask, scale).reshape(1, -1)
    if groups == 1:
        mixed = _attend_folded(queries.transpose(0, 1), keys, values, rows.mask, scale)  # [H, R, D]
        return mixed.transpose(0, 1).reshape(count, heads * width)
    folded = queries.view(count, heads // groups, groups, width).permute(1, 2, 0, 3)
    folded = folded.reshape(heads // groups, groups * count, width)  # [Hkv, G R, D]
    mixed = _attend_folded(folded, keys, values, rows.mask, scale)
    # A view that splits G R but merges nothing: kernels differ in the layout they return.
    mixed = mixed.view(heads // groups, groups, count, width)
    return mixed.permute(2, 0, 1, 3).reshape(count, heads * width)


def _attend_folded(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    """Attention of queries [Hkv, G R, D] under an additive mask [G R, N], shape [Hkv, G R, D].

    On a CPU three plain kernels start faster than the fused one, which would save little memory for the few
    rows of such a pass.
    """
    if not queries.is_cpu or queries.dtype not in _FULL_PRECISIONS:
        args = queries[None], keys[None], values[None]
        return F.scaled_dot_product_attention(*args, attn_mask=mask, scale=scale)[0]
    bias, share = (_ignored(queries.dtype), 0) if mask is None else (mask, 1)
    factor = queries.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.baddbmm(bias, queries, keys.transpose(1, 2), beta=share, alpha=factor)
    return torch.bmm(scores.softmax(dim=-1), values)


@cache
def _ignored(dtype: torch.dtype) -> Tensor:
    """A stand-in for the mask, which `torch.baddbmm` wants even where it is multiplied by zero."""
    with torch.inference_mode(False):
        return torch.zeros(1, dtype=dtype)
