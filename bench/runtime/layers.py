"""The weights of a decoder, layer by layer, as its passes read them.

Shapes: d width, H query heads, Hkv key/value heads, D head width, f MLP width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from bench.runtime.families import DecoderConfig
from bench.runtime.linear import Linear
from bench.runtime.moe import Moe
from bench.runtime.residual import PLAIN, Residual


@dataclass(frozen=True, slots=True)
class Attention:
    """Weights of an attention sub-layer; q, k and v are fused along the outputs."""

    norm: Tensor | None  # [d]
    qkv: Linear  # [(H + 2 Hkv) D, d]
    o: Linear  # [d, H D]
    query_norm: Tensor | None = None  # [D] for each head, or [H D] for a row
    key_norm: Tensor | None = None  # [D] or [Hkv D]
    residual: Residual = PLAIN
    score_scale: float | None = None  # 1 / sqrt(D) by default
    is_alternate: bool = False  # the layer places rows as `Rows.alternate`


@dataclass(frozen=True, slots=True)
class Mlp:
    """Weights of a gated MLP sub-layer; gate and up are fused along the outputs."""

    norm: Tensor | None  # [d]
    gate_up: Linear  # [2 f, d]
    down: Linear  # [d, f]
    residual: Residual = PLAIN


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer; a drafter's may have no MLP."""

    attention: Attention
    mlp: Mlp | Moe | None

    def projections(self) -> Iterator[Linear]:
        """Its two or four projections, in the order of the arithmetic; a mixture of experts is left out."""
        yield from (self.attention.qkv, self.attention.o)
        if isinstance(self.mlp, Mlp):
            yield from (self.mlp.gate_up, self.mlp.down)


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's shape and all its weights."""

    config: DecoderConfig
    embedding: Tensor  # [V, d]
    layers: Sequence[Layer]
    final_norm: Tensor  # [d]; of the norm before the head
    lm_head: Linear  # [V, d]
