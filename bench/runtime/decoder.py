"""The one transformer that every method runs on: embed, any range of layers, head.

Rows of a single sequence, no batch axis. A pass is three calls: ``embed`` ids to rows, ``run_layers`` over
some layers (writing keys and values to the cache), ``head`` to logits. Early exit, resuming, skipping
sub-layers, trees, read-only rows and low-rank deltas are options of ``run_layers``; no method needs a model
file of its own.

Shapes: R rows, d width, H query heads, Hkv key/value heads, G = H / Hkv, D head width, N visible slots, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.cache import KVCache
from bench.runtime.delta import Delta
from bench.runtime.families import DecoderConfig
from bench.runtime.linear import Linear, rms_norm
from bench.runtime.rope import rotate
from bench.runtime.rows import Placement, Rows

Tier = Literal["eager", "static", "compiled", "graph"]


@dataclass(frozen=True, slots=True)
class Attention:
    """Weights of an attention sub-layer; q, k and v are fused along the outputs."""

    norm: Tensor  # [d]
    qkv: Linear  # [(H + 2 Hkv) D, d]
    o: Linear  # [d, H D]
    query_norm: Tensor | None = None  # [D]
    key_norm: Tensor | None = None  # [D]


@dataclass(frozen=True, slots=True)
class Mlp:
    """Weights of a gated MLP sub-layer; gate and up are fused along the outputs."""

    norm: Tensor  # [d]
    gate_up: Linear  # [2 f, d]
    down: Linear  # [d, f]


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer; drafters may do without an MLP."""

    attention: Attention
    mlp: Mlp | None


@dataclass(frozen=True, slots=True)
class Skip:
    """Sub-layers left out: their rows pass unchanged and a skipped attention writes no keys or values."""

    attention: frozenset[int] = frozenset()
    mlp: frozenset[int] = frozenset()


NO_SKIP = Skip()


class Decoder:
    """A loaded model with its cache; a pass is launched kernel by kernel: the tier ``static``.

    Args:
        config: Shape and family flags.
        embedding: Token embeddings, shape [V, d].
        layers: Layer weights in order.
        final_norm: Weight of the norm before the head, shape [d].
        lm_head: Projection to the vocabulary.
        cache: Key/value store; one for all arms, emptied before each generation.
        placement: Positions and masks over the same capacity.
    """

    tier: Tier = "static"

    def __init__(
        self,
        config: DecoderConfig,
        embedding: Tensor,
        layers: Sequence[Layer],
        final_norm: Tensor,
        lm_head: Linear,
        cache: KVCache,
        placement: Placement,
    ) -> None:
        self.config = config
        self.embedding = embedding
        self.layers = list(layers)
        self.final_norm = final_norm
        self.lm_head = lm_head
        self.cache = cache
        self.placement = placement
        self.device, self.dtype = embedding.device, embedding.dtype
        self._query_width = config.heads + config.kv_heads  # heads that are rotated
        self._groups = config.heads // config.kv_heads
        self._score_scale = config.head_dim**-0.5
        self._weighs_plainly = self.device.type == "cpu" and self.dtype in (torch.float32, torch.float64)
        self._no_bias = torch.zeros(1, dtype=self.dtype, device=self.device)
        # Rounded to the rows' precision, as the reference implementation rounds it.
        scale = torch.tensor(config.embed_scale, dtype=self.dtype, device=self.device)
        self._embed_scale = None if config.embed_scale == 1.0 else scale

    @property
    def depth(self) -> int:
        """Number of layers (L)."""
        return len(self.layers)

    @property
    def parameters(self) -> int:
        """Weights of the model, norms left out; a tied head counts once."""
        return self.pass_parameters + (0 if self.config.tied_head else self.embedding.numel())

    @property
    def pass_parameters(self) -> int:
        """Weights that a pass reads: all but the embedding, of which it takes a row per token."""
        linears = [self.lm_head]
        for layer in self.layers:
            linears += [layer.attention.qkv, layer.attention.o]
            linears += [layer.mlp.gate_up, layer.mlp.down] if layer.mlp is not None else []
        return sum(one.parameters for one in linears)

    @property
    def capacity(self) -> int:
        """Longest sequence, prompt and output together, in tokens."""
        return self.cache.capacity

    def embed(self, ids: Tensor) -> Tensor:
        """Rows entering layer 0 for token ids [R], shape [R, d]."""
        rows = F.embedding(ids, self.embedding)
        return rows if self._embed_scale is None else rows * self._embed_scale

    def run_layers(
        self,
        hidden: Tensor,
        rows: Rows,
        start: int = 0,
        stop: int | None = None,
        *,
        skip: Skip = NO_SKIP,
        delta: Delta | None = None,
        taps: MutableMapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Run rows through layers ``start .. stop - 1``.

        Args:
            hidden: Rows entering layer `start`, shape [R, d]; never changed in place.
            rows: Their slots, positions and mask.
            start: First layer.
            stop: One past the last layer; all layers by default.
            skip: Sub-layers to leave out.
            delta: Added to projections of some rows.
            taps: Filled with the rows entering layer l for every key l it holds (l = 0 is the embedding, l =
                L what the final norm sees); keys outside ``start .. stop`` are left alone.

        Returns:
            Rows leaving layer ``stop - 1``, before the final norm, shape [R, d].
        """
        stop = self.depth if stop is None else stop
        for index in range(start, stop):
            if taps is not None and index in taps:
                taps[index] = hidden
            layer = self.layers[index]
            if index not in skip.attention:
                hidden = self._attend(index, layer.attention, hidden, rows, delta)
            if layer.mlp is not None and index not in skip.mlp:
                hidden = self._feed_forward(index, layer.mlp, hidden, delta)
        if taps is not None and stop in taps:
            taps[stop] = hidden
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Final norm and LM head, logits [R, V]; early exits use it on shallow rows too."""
        return self.lm_head(rms_norm(hidden, self.final_norm, self.config.norm_eps))

    def prefill(self, ids: Tensor, taps: MutableMapping[int, Tensor] | None = None) -> Tensor:
        """Empty the cache, run a prompt [P] and return the logits behind its last token, shape [1, V]."""
        self.cache.truncate(0)
        hidden = self.run_layers(self.embed(ids), self.placement.chain(0, ids.numel()), taps=taps)
        return self.head(hidden[-1:])

    def step(self, ids: Tensor, base: int) -> Tensor:
        """Logits [R, V] of consecutive tokens [R] behind `base` committed ones, all layers."""
        return self.head(self.run_layers(self.embed(ids), self.placement.chain(base, ids.numel())))

    def companion(self, layers: Sequence[Layer], final_norm: Tensor, capacity: int | None = None) -> Decoder:
        """Other layers, such as a drafter's, with this model's embedding, head and tier and an own cache."""
        cache = self.cache.sibling(len(layers), self.capacity if capacity is None else capacity)
        weights = (self.config, self.embedding, layers, final_norm, self.lm_head)
        return type(self)(*weights, cache, self.placement)

    def adopt(self, other: Decoder) -> None:
        """A method decodes with `other` as well: what prepares this decoder prepares it too."""

    def prepare(self, longest: int) -> None:
        """Empty the cache and get ready for passes like those so far, in sequences up to `longest` tokens."""
        self.cache.truncate(0)

    def _attend(
        self, index: int, weights: Attention, hidden: Tensor, rows: Rows, delta: Delta | None
    ) -> Tensor:
        config = self.config
        normed = rms_norm(hidden, weights.norm, config.norm_eps)
        qkv = weights.qkv(normed)
        if delta is not None:
            delta.add(index, "qkv", normed, qkv)
        qkv = qkv.view(hidden.shape[0], -1, config.head_dim)  # [R, H + 2 Hkv, D]
        self._rotate(weights, qkv.narrow(1, 0, self._query_width), rows)
        # narrow costs half of what an indexing expression does, and this runs for every layer of every step
        fresh = qkv.narrow(1, config.heads, 2 * config.kv_heads)
        if rows.writes < fresh.shape[0]:
            fresh = fresh[: rows.writes]
        keys, values = self.cache.write(index, rows.base, fresh)
        mixed = self._mix(qkv.narrow(1, 0, config.heads), keys, values, rows)
        out = weights.o.add_to(hidden, mixed)
        if delta is not None:
            delta.add(index, "o", mixed, out)
        return out

    def _rotate(self, weights: Attention, heads: Tensor, rows: Rows) -> None:
        """Norm queries and keys [R, H + Hkv, D] where the family asks, and rotate them, all in place."""
        if weights.query_norm is not None and weights.key_norm is not None:
            queries = rms_norm(heads[:, : self.config.heads], weights.query_norm, self.config.norm_eps)
            keys = rms_norm(heads[:, self.config.heads :], weights.key_norm, self.config.norm_eps)
            rotate(torch.cat([queries, keys], dim=1), rows.cos, rows.sin, out=heads)
        else:
            rotate(heads, rows.cos, rows.sin, out=heads)

    def _mix(self, queries: Tensor, keys: Tensor, values: Tensor, rows: Rows) -> Tensor:
        """Attention output [R, H D]; the G query heads of a group share keys by folding into the rows."""
        count, heads, width = queries.shape
        groups = self._groups
        if rows.is_causal:
            mixed = F.scaled_dot_product_attention(
                queries.transpose(0, 1)[None], keys[None], values[None], is_causal=True, enable_gqa=groups > 1
            )
            return mixed[0].transpose(0, 1).reshape(count, heads * width)
        if count == 1:
            return self._weigh(queries.view(-1, groups, width), keys, values, rows.mask).reshape(1, -1)
        if groups == 1:
            mixed = self._weigh(queries.transpose(0, 1), keys, values, rows.mask)  # [H, R, D]
            return mixed.transpose(0, 1).reshape(count, heads * width)
        folded = queries.view(count, heads // groups, groups, width).permute(1, 2, 0, 3)
        folded = folded.reshape(heads // groups, groups * count, width)  # [Hkv, G R, D]
        mixed = self._weigh(folded, keys, values, rows.mask)
        # A view that splits G R but merges nothing: kernels differ in the layout they return.
        mixed = mixed.view(heads // groups, groups, count, width)
        return mixed.permute(2, 0, 1, 3).reshape(count, heads * width)

    def _weigh(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Values [Hkv, N, D] weighed by how queries [Hkv, G R, D] match keys; shape [Hkv, G R, D].

        On a CPU three plain kernels start faster than the fused one, and it saves no memory worth having for
        the few rows that come here.
        """
        if not self._weighs_plainly:
            args = queries[None], keys[None], values[None]
            return F.scaled_dot_product_attention(*args, attn_mask=mask)[0]
        bias, share = (self._no_bias, 0) if mask is None else (mask, 1)
        scores = torch.baddbmm(bias, queries, keys.transpose(1, 2), beta=share, alpha=self._score_scale)
        return torch.bmm(scores.softmax(dim=-1), values)

    def _feed_forward(self, index: int, weights: Mlp, hidden: Tensor, delta: Delta | None) -> Tensor:
        normed = rms_norm(hidden, weights.norm, self.config.norm_eps)
        both = weights.gate_up(normed)
        if delta is not None:
            delta.add(index, "gate_up", normed, both)
        width = both.shape[1] // 2
        gate, up = both.narrow(1, 0, width), both.narrow(1, width, width)
        inner = F.silu(gate) if self.config.activation == "silu" else F.gelu(gate, approximate="tanh")
        inner = inner.mul_(up)
        out = weights.down.add_to(hidden, inner)
        if delta is not None:
            delta.add(index, "down", inner, out)
        return out
