"""The drafter's one layer as it decodes, arXiv 2503.01840 (section 3.1, figure 5).

A row of the drafter stands for a position p of the text. It reads the embedding of token p + 1 and a hidden
row of position p: the target's, reduced from three depths, or, for a drafted token, what this layer put out
for the position before. Both have a norm of their own, and attention reads them side by side; the residual
stream is the hidden row alone.

Shapes: R rows, d width of the target, H query heads, Hkv key/value heads, D head width, f MLP width, N tokens
that may be drafted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.runtime.attention import attend
from bench.runtime.cache import KVCache
from bench.runtime.decoder import Decoder
from bench.runtime.delta import Delta
from bench.runtime.families import DecoderConfig
from bench.runtime.layers import Attention, Layer, Mlp
from bench.runtime.linear import Linear, normed_rows, rms_norm
from bench.runtime.rows import Placement, Rows, plain_frequencies, rotary_tables
from bench.runtime.sampling import DraftHead

LAYER = "midlayer"
"""What the layer is called in the authors' files."""
_NORMS = ("input_layernorm", "hidden_norm", "post_attention_layernorm")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a drafter looks like beside its tensors; stored with them.

    Args:
        taps: Layers of the target whose entering rows it reads.
        mlp_width: Inner width of its MLP (f).
        draft_ids: Tokens that its LM head knows, ascending; None for the whole vocabulary.
        has_head: Whether it has an LM head of its own; else it drafts with the target's rows.
        norm_before_residual: Whether the residual stream takes the hidden row after its norm, as drafters
            trained with the speculators library do.
        rope_theta: Base of its rotary angles; None for the target's own angles.
        norm_eps: Epsilon of its norms; None for the target's.
    """

    taps: tuple[int, ...]
    mlp_width: int
    draft_ids: tuple[int, ...] | None = None
    has_head: bool = True
    norm_before_residual: bool = False
    rope_theta: float | None = None
    norm_eps: float | None = None

    def facts(self) -> dict[str, Any]:
        """What is stored with the tensors, as plain JSON."""
        ids = None if self.draft_ids is None else list(self.draft_ids)
        return asdict(self) | {"taps": list(self.taps), "draft_ids": ids}

    def shapes(self, config: DecoderConfig) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by its name in the authors' files, for a target of this shape."""
        width, inner = config.width, self.mlp_width
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "fc.weight": (width, len(self.taps) * width),
            "norm.weight": (width,),
        }
        shapes |= {f"{LAYER}.{name}.weight": (width,) for name in _NORMS}
        shapes |= {f"{LAYER}.self_attn.q_proj.weight": (queries, 2 * width)}
        shapes |= {f"{LAYER}.self_attn.{name}_proj.weight": (keys, 2 * width) for name in "kv"}
        shapes |= {f"{LAYER}.self_attn.o_proj.weight": (width, queries)}
        shapes |= {f"{LAYER}.mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes |= {f"{LAYER}.mlp.down_proj.weight": (width, inner)}
        if self.has_head:
            rows = config.vocab if self.draft_ids is None else len(self.draft_ids)
            shapes["lm_head.weight"] = (rows, width)
        return shapes


class EagleLayer(Decoder):
    """The drafter as a decoder of one layer, run operation by operation whatever the target's tier.

    Args:
        target: The model it drafts for; its embedding and precision are used.
        tensors: As `Layout.shapes` names them.
        layout: What they are.
    """

    def __init__(self, target: Decoder, tensors: Mapping[str, Tensor], layout: Layout) -> None:
        self._input_norm = tensors[f"{LAYER}.input_layernorm.weight"]
        self._norm_before_residual = layout.norm_before_residual
        self._reduce = Linear(tensors["fc.weight"])
        self._taps = layout.taps
        own = Linear(tensors["lm_head.weight"]) if layout.has_head else None
        eps = target.config.norm_eps if layout.norm_eps is None else layout.norm_eps
        weights = replace(
            target.weights,
            config=replace(target.config, activation="silu", window=None, norm_eps=eps),
            layers=[_as_layer(tensors)],
            final_norm=tensors["norm.weight"],
            lm_head=own or target.lm_head,
        )
        cache = KVCache.like(target.cache, 1, target.capacity)
        super().__init__(weights, cache, _placement(target, layout))
        ids = None if layout.draft_ids is None else torch.tensor(layout.draft_ids)
        self.draft_head = DraftHead(self, ids, own)

    def features(self, taps: Mapping[int, Tensor]) -> Tensor:
        """The target's rows at all depths, each [R, d], as rows of the drafter, shape [R, d]."""
        return self._reduce(torch.cat([taps[layer] for layer in self._taps], dim=1))

    def advance(self, embedded: Tensor, hidden: Tensor) -> Tensor:
        """Run the next positions.

        Args:
            embedded: Embeddings of the token after each position, shape [R, d].
            hidden: Hidden rows of the positions, shape [R, d].

        Returns:
            Rows leaving the layer, before the final norm, shape [R, d].
        """
        self._embedded = embedded
        return self.run_layers(hidden, self.placement.chain(self.cache.length, hidden.shape[0]))

    def _attend(
        self, index: int, weights: Attention, hidden: Tensor, rows: Rows, delta: Delta | None
    ) -> Tensor:
        config = self.config
        embedded = rms_norm(self._embedded, self._input_norm, config.norm_eps)
        normed = normed_rows(hidden, weights.norm, config.norm_eps)
        heads = weights.qkv(torch.cat([embedded, normed], dim=1)).view(hidden.shape[0], -1, config.head_dim)
        self._rotate(weights, heads.narrow(1, 0, self._rotated_heads), rows)
        keys, values = self.cache.write(index, rows.base, heads.narrow(1, config.heads, 2 * config.kv_heads))
        mixed = attend(heads.narrow(1, 0, config.heads), keys, values, rows)
        return weights.o.add_to(normed if self._norm_before_residual else hidden, mixed)


def _as_layer(tensors: Mapping[str, Tensor]) -> Layer:
    def joined(*names: str) -> Linear:
        return Linear(torch.cat([tensors[f"{LAYER}.{name}_proj.weight"] for name in names]))

    attention = Attention(
        norm=tensors[f"{LAYER}.hidden_norm.weight"],
        qkv=joined("self_attn.q", "self_attn.k", "self_attn.v"),
        o=joined("self_attn.o"),
    )
    mlp = Mlp(
        norm=tensors[f"{LAYER}.post_attention_layernorm.weight"],
        gate_up=joined("mlp.gate", "mlp.up"),
        down=joined("mlp.down"),
    )
    return Layer(attention, mlp)


def _placement(target: Decoder, layout: Layout) -> Placement:
    """The target's angles, or plain ones of the drafter's own base."""
    if layout.rope_theta is None:
        return target.placement
    config = target.config
    angles = plain_frequencies(config.head_dim, layout.rope_theta)
    cos, sin = rotary_tables(angles, target.placement.capacity)
    place = (target.device, target.dtype)
    return Placement(cos.to(*place), sin.to(*place), config.heads // config.kv_heads, None)
