"""Rotary position tables: cosines and sines for every position the cache can hold.

The scaling rules of long-context checkpoints (linear, dynamic, yarn, longrope, llama3) are transformers' own
functions, so that they follow the checkpoint's config to the letter. Rules that depend on the sequence length
(dynamic, longrope) are evaluated once for the capacity of the cache: a table that changed in mid-sequence
would leave cached keys rotated by another rule.

Shapes: S capacity in tokens, D head width, rotary width <= D.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from bench.errors import UserError


def rotary_tables(
    config: Any,  # noqa: ANN401
    head_dim: int,
    capacity: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine tables, each shape [S, 1, D].

    The sine carries the sign of the rotation's first half, so that rotating is
    ``x * cos + roll(x, D / 2) * sin``; unrotated channels (partial rotary) have cosine 1 and sine 0 and are
    placed by `rotate`.

    Args:
        config: The transformers configuration.
        head_dim: Width of one head (D).
        capacity: Positions in the table (S).
        dtype: Of the result; angles are computed in fp32.
        device: Of the result.

    Raises:
        UserError: If the scaling rule is unknown.
    """
    frequencies, factor = _frequencies(config, head_dim, capacity)  # [rotary / 2]
    angles = torch.arange(capacity, dtype=torch.float32)[:, None] * frequencies[None, :]
    cos, sin = angles.cos() * factor, angles.sin() * factor
    cos = torch.cat([cos, cos], dim=-1)
    sin = torch.cat([-sin, sin], dim=-1)
    return cos[:, None].to(device, dtype), sin[:, None].to(device, dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Rotate heads `x` [R, heads, D] by the tables' rows [R, 1, rotary]; into `out`, which may be `x`."""
    width = cos.shape[-1]
    if width == x.shape[-1]:
        return torch.addcmul(x * cos, x.roll(width // 2, -1), sin, out=out)
    if out is not None:
        return out.copy_(rotate(x, cos, sin))
    turned, kept = x[..., :width], x[..., width:]
    return torch.cat([torch.addcmul(turned * cos, turned.roll(width // 2, -1), sin), kept], dim=-1)


def _frequencies(config: Any, head_dim: int, capacity: int) -> tuple[Tensor, float]:  # noqa: ANN401
    parameters = config.rope_parameters
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        width = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, width, 2, dtype=torch.int64).float() / width
        return 1.0 / (parameters["rope_theta"] ** exponents), 1.0
    if kind not in ROPE_INIT_FUNCTIONS:
        raise UserError(
            f"rope_type {kind!r} is not supported",
            f"supported: default, {', '.join(sorted(ROPE_INIT_FUNCTIONS))}",
        )
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=capacity)
    return frequencies.float(), float(factor)
