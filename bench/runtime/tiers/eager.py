"""The textbook pass, kernel by kernel: the tier ``eager``, a second baseline and a second opinion.

Separate projections, key/value heads repeated for every query head, norm, rotation, attention and gate
spelled out, no prepacked weights: what typical eager PyTorch code does. Only the cache is ours; a growing one
would cost more still. This tier shows how much of a speedup a slow baseline alone would produce; headline
speedups are always against the fastest tier.

Shapes: R rows, d width, H query heads, Hkv key/value heads, D head width, N visible slots.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.decoder import Decoder, Tier
from bench.runtime.delta import Delta
from bench.runtime.layers import Attention, Mlp
from bench.runtime.linear import Linear
from bench.runtime.moe import Moe
from bench.runtime.residual import Residual
from bench.runtime.rows import Rows


class EagerDecoder(Decoder):
    """A `Decoder` that fuses nothing."""

    tier: Tier = "eager"

    def head(self, hidden: Tensor, lm_head: Linear | None = None) -> Tensor:
        """See `Decoder.head`."""
        return _project(self._norm(hidden, self.final_norm), lm_head or self.lm_head)

    def _attend(
        self, index: int, weights: Attention, hidden: Tensor, rows: Rows, delta: Delta | None
    ) -> Tensor:
        config, count, rows = self.config, hidden.shape[0], rows.of(weights.is_alternate)
        normed = hidden if weights.norm is None else self._norm(hidden, weights.norm)
        sizes = [heads * config.head_dim for heads in (config.heads, config.kv_heads, config.kv_heads)]
        ends = [sum(sizes[: part + 1]) for part in range(3)]
        parts = [
            _project(normed, weights.qkv, end - size, end) for size, end in zip(sizes, ends, strict=True)
        ]
        if delta is not None:
            fused = torch.cat(parts, dim=1)
            delta.add(index, "qkv", normed, fused)
            parts = list(torch.split(fused, sizes, dim=1))
        queries, keys, values = (part.view(count, -1, config.head_dim) for part in parts)  # [R, heads, D]
        if weights.query_norm is not None and weights.key_norm is not None:
            queries, keys = (
                self._norm(heads.reshape(count, -1, weight.numel()), weight).view(count, -1, config.head_dim)
                for heads, weight in ((queries, weights.query_norm), (keys, weights.key_norm))
            )
        queries, keys = _rotated(queries, rows), _rotated(keys, rows)
        fresh = torch.cat([keys, values], dim=1)[: rows.writes]
        scale = config.head_dim**-0.5 if weights.score_scale is None else weights.score_scale
        mixed = self._mix(queries, *self.cache.write(index, rows.base, fresh), rows, scale)
        out = _project(mixed, weights.o)
        if delta is not None:
            delta.add(index, "o", mixed, out)
        return self._added(hidden, out, weights.residual)

    def _mix(self, queries: Tensor, keys: Tensor, values: Tensor, rows: Rows, scale: float) -> Tensor:
        """Attention output [R, H D]; every query head gets its own copy of its keys and values."""
        count, heads, width = queries.shape
        groups = heads // self.config.kv_heads
        keys, values = (stored.repeat_interleave(groups, dim=0) for stored in (keys, values))  # [H, N, D]
        scores = queries.transpose(0, 1) @ keys.transpose(1, 2) * scale  # [H, R, N]
        if rows.mask is not None:
            scores = scores + rows.mask[-count:]  # the same for every head of a group
        elif rows.is_causal:
            hidden = torch.ones(count, count, dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        mixed: Tensor = scores.float().softmax(dim=-1).to(values.dtype) @ values
        return mixed.transpose(0, 1).reshape(count, heads * width)

    def _feed_forward(self, index: int, weights: Mlp | Moe, hidden: Tensor, delta: Delta | None) -> Tensor:
        if isinstance(weights, Moe):
            return super()._feed_forward(index, weights, hidden, delta)
        normed = hidden if weights.norm is None else self._norm(hidden, weights.norm)
        width = weights.gate_up.weight.shape[0] // 2
        gate = _project(normed, weights.gate_up, 0, width)
        up = _project(normed, weights.gate_up, width, 2 * width)
        if delta is not None:
            fused = torch.cat([gate, up], dim=1)
            delta.add(index, "gate_up", normed, fused)
            gate, up = torch.split(fused, width, dim=1)
        gate = F.silu(gate) if self.config.activation == "silu" else F.gelu(gate, approximate="tanh")
        inner = gate * up
        out = _project(inner, weights.down)
        if delta is not None:
            delta.add(index, "down", inner, out)
        return self._added(hidden, out, weights.residual)

    def _added(self, hidden: Tensor, out: Tensor, by: Residual) -> Tensor:
        """The residual stream after a sub-layer that puts out `out`, both shape [R, d]."""
        out = out if by.norm is None else self._norm(out, by.norm)
        return hidden + (out if by.scale == 1.0 else out * by.scale)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        scale = torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + self.config.norm_eps)
        return (wide * scale).to(x.dtype) * weight


def _project(x: Tensor, linear: Linear, start: int = 0, end: int | None = None) -> Tensor:
    """Outputs ``start .. end - 1`` of a projection of `x` [R, I]."""
    bias = linear.bias if linear.bias is None else linear.bias[start:end]
    return F.linear(x, linear.weight[start:end], bias)


def _rotated(x: Tensor, rows: Rows) -> Tensor:
    """Heads [R, heads, D] rotated by position; channels past the rotary width stay."""
    width = rows.cos.shape[-1]
    turning, kept = x[..., :width], x[..., width:]
    first, second = turning.chunk(2, dim=-1)
    # The table's sine carries the sign of the first half, see `bench.runtime.rows.rotary_tables`.
    turned = turning * rows.cos + torch.cat([second, first], dim=-1) * rows.sin
    return torch.cat([turned, kept], dim=-1)
