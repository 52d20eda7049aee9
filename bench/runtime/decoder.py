"""The one transformer that every method runs on: embedding, any range of layers, head.

It runs rows of a single sequence; there is no batch axis. A pass is three calls: ``embed`` turns token ids
into rows, ``run_layers`` runs them through some layers and writes their keys and values to the cache,
``head`` turns them into logits. Early exit, resuming at a layer, skipping sub-layers, trees, read-only rows
and low-rank changes are options of ``run_layers``, so no method needs a model file of its own.

Shapes: R rows, d width, L layers, H query heads, Hkv key/value heads, G = H / Hkv, D head width, f MLP width,
N visible slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.attention import attend
from bench.runtime.cache import KVCache
from bench.runtime.delta import Delta
from bench.runtime.draft_step import DraftStepper, Head
from bench.runtime.layers import Attention, Layer, Mlp, Weights
from bench.runtime.linear import Linear, normed_heads, normed_rows, rms_norm
from bench.runtime.moe import Moe
from bench.runtime.residual import add_output
from bench.runtime.rows import Placement, Rows, rotate
from bench.runtime.several_devices import run_across

Tier = Literal["eager", "static", "compiled", "graph"]
Taps = MutableMapping[int, Tensor]
"""Rows entering chosen layers, by layer; the caller puts the keys, a pass the values."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Layers whose attention or MLP a pass leaves out.

    Rows pass a skipped sub-layer unchanged; a skipped attention writes no keys or values.
    """

    attention: frozenset[int] = frozenset()
    mlp: frozenset[int] = frozenset()


NO_SKIP = Skip()


class Decoder:
    """A loaded model with its cache. This class is the tier ``static``: a pass is launched kernel by kernel.

    All tensors that are passed in or out lie on `device` and, token ids apart, have the dtype `dtype`. Layers
    may lie on other devices, see `bench.runtime.several_devices`.

    Args:
        weights: The model; its parts become attributes of the decoder.
        cache: Key/value store; all arms share it, and it is emptied before each generation.
        placement: Positions and masks for the same capacity.

    Attributes:
        drafts_in_int8: Whether `bench.runtime.sampling.DraftHead` rounds its weights to 8 bits.
    """

    tier: Tier = "static"

    def __init__(self, weights: Weights, cache: KVCache, placement: Placement) -> None:
        self.config, self.layers = weights.config, list(weights.layers)
        self.embedding, self.final_norm, self.lm_head = weights.embedding, weights.final_norm, weights.lm_head
        self.drafts_in_int8 = weights.drafts_in_int8
        self.cache = cache
        self.placement = placement
        self.device, self.dtype = self.embedding.device, self.embedding.dtype
        self._rotated_heads = self.config.heads + self.config.kv_heads
        # Rounded to the rows' precision, as the reference implementation rounds it.
        scale = torch.tensor(self.config.embed_scale, dtype=self.dtype, device=self.device)
        self._embed_scale = None if self.config.embed_scale == 1.0 else scale

    @property
    def weights(self) -> Weights:
        """Shape and weights, as another decoder of the same model takes them."""
        return Weights(
            self.config, self.embedding, self.layers, self.final_norm, self.lm_head, self.drafts_in_int8
        )

    @property
    def depth(self) -> int:
        """Number of layers (L)."""
        return len(self.layers)

    @property
    def parameters(self) -> int:
        """Weights of the model without its norms; a tied head counts once."""
        idle = sum(layer.mlp.idle_parameters for layer in self.layers if isinstance(layer.mlp, Moe))
        return self.pass_parameters + idle + (0 if self.config.tied_head else self.embedding.numel())

    @property
    def pass_parameters(self) -> int:
        """Weights that a pass of one row reads: all but the embedding and the experts that it leaves out."""
        layers = sum(linear.parameters for layer in self.layers for linear in layer.projections())
        layers += sum(layer.mlp.active_parameters for layer in self.layers if isinstance(layer.mlp, Moe))
        return self.lm_head.parameters + layers

    @property
    def capacity(self) -> int:
        """Longest sequence, prompt and output together, in tokens."""
        return self.cache.capacity

    def embed(self, ids: Tensor) -> Tensor:
        """Rows entering layer 0, shape [R, d], for token ids [R], int64."""
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
        taps: Taps | None = None,
    ) -> Tensor:
        """Run rows through layers ``start .. stop - 1`` and write their keys and values to the cache.

        Args:
            hidden: Rows entering layer `start`, shape [R, d]; never changed in place.
            rows: Their slots, positions and mask, made by `placement`.
            start: First layer.
            stop: One past the last layer; all layers by default.
            skip: Sub-layers to leave out.
            delta: Changes to the projections of some rows.
            taps: For every key l from `start` to `stop`, filled with the rows entering layer l, shape [R, d];
                l = L is what the final norm sees. Other keys are left alone.

        Returns:
            Rows leaving layer ``stop - 1``, before the final norm, shape [R, d].

        Raises:
            RuntimeError: If the rows would leave a gap in the cache of one of these layers.
        """
        layers = range(start, self.depth if stop is None else stop)
        if not self.cache.parts:
            return self._pass(hidden, rows, layers, skip, delta, taps)
        part = partial(self._pass, skip=skip, taps=taps)
        return run_across(self.cache.parts, part, hidden, rows, layers, delta, taps)

    def head(self, hidden: Tensor, lm_head: Linear | None = None) -> Tensor:
        """Final norm and LM head, or another in its place: logits [R, V] of rows [R, d], shallow or not."""
        return (lm_head or self.lm_head)(rms_norm(hidden, self.final_norm, self.config.norm_eps))

    def prefill(self, ids: Tensor, taps: Taps | None = None) -> Tensor:
        """Empty the cache and run a prompt through all layers.

        Args:
            ids: The prompt, shape [P], int64.
            taps: As for `run_layers`.

        Returns:
            Logits of the token after the prompt, shape [1, V].

        Raises:
            UserError: If the prompt is longer than the capacity.
        """
        self.cache.truncate(0)
        self.placement.begin(ids.numel())
        hidden = self.run_layers(self.embed(ids), self.placement.chain(0, ids.numel()), taps=taps)
        return self.head(hidden[-1:])

    def step(self, ids: Tensor, base: int) -> Tensor:
        """Run consecutive tokens through all layers.

        Args:
            ids: The tokens, shape [R], int64.
            base: Position of the first one: the number of tokens before it, all of them in the cache.

        Returns:
            Logits of the token after each, shape [R, V].

        Raises:
            RuntimeError: If the cache holds fewer than `base` tokens.
            UserError: If the tokens exceed the capacity.
        """
        return self.head(self.run_layers(self.embed(ids), self.placement.chain(base, ids.numel())))

    def companion(self, layers: Sequence[Layer], final_norm: Tensor, capacity: int | None = None) -> Decoder:
        """A decoder of other layers, such as a drafter's, with this model's embedding, head and tier.

        Args:
            layers: Its layers.
            final_norm: Weight of its last norm, shape [d].
            capacity: Slots of its own, empty cache; as many as here by default.
        """
        cache = KVCache.like(self.cache, len(layers), self.capacity if capacity is None else capacity)
        return type(self)(replace(self.weights, layers=layers, final_norm=final_norm), cache, self.placement)

    def stepper(self, exit_layer: int, head: Head, drafter: Decoder | None = None) -> DraftStepper:
        """What drafts greedily with the first `exit_layer` layers; see `DraftStepper`."""
        return DraftStepper(self, exit_layer, head, drafter)

    def adopt(self, other: Decoder) -> None:
        """Prepare `other`, a second decoder of the same method, whenever this one is prepared."""

    def prepare(self, longest: int) -> None:
        """Empty the cache; on the graph tier, also record what texts of up to `longest` tokens need."""
        self.cache.truncate(0)

    def _pass(
        self, hidden: Tensor, rows: Rows, layers: range, skip: Skip, delta: Delta | None, taps: Taps | None
    ) -> Tensor:
        """`run_layers` as this tier does it."""
        for index in layers:
            if taps is not None and index in taps:
                taps[index] = hidden
            layer = self.layers[index]
            if index not in skip.attention:
                hidden = self._attend(index, layer.attention, hidden, rows, delta)
            if layer.mlp is not None and index not in skip.mlp:
                hidden = self._feed_forward(index, layer.mlp, hidden, delta)
        if taps is not None and layers.stop in taps:
            taps[layers.stop] = hidden
        return hidden

    def _attend(
        self, index: int, weights: Attention, hidden: Tensor, rows: Rows, delta: Delta | None
    ) -> Tensor:
        config, rows = self.config, rows.of(weights.is_alternate)
        normed = normed_rows(hidden, weights.norm, config.norm_eps)
        qkv = weights.qkv(normed)
        if delta is not None:
            delta.add(index, "qkv", normed, qkv)
        qkv = qkv.view(hidden.shape[0], -1, config.head_dim)  # [R, H + 2 Hkv, D]
        self._rotate(weights, qkv.narrow(1, 0, self._rotated_heads), rows)
        # narrow costs half as much as indexing, and this runs for every layer of every step
        fresh = qkv.narrow(1, config.heads, 2 * config.kv_heads)
        fresh = fresh[: rows.writes] if rows.writes < fresh.shape[0] else fresh
        keys, values = self.cache.write(index, rows.base, fresh)
        mixed = self._read_slots(qkv.narrow(1, 0, config.heads), keys, values, rows, weights.score_scale)
        return add_output(hidden, mixed, weights.o, weights.residual, config.norm_eps, delta, (index, "o"))

    def _read_slots(
        self, queries: Tensor, keys: Tensor, values: Tensor, rows: Rows, scale: float | None
    ) -> Tensor:
        """What rows [R, H, D] read from the slots that they see, shape [R, H D]."""
        return attend(queries, keys, values, rows, scale)

    def _rotate(self, weights: Attention, heads: Tensor, rows: Rows) -> None:
        """Rotate queries and keys [R, H + Hkv, D] in place, after their norms if the family has them."""
        if weights.query_norm is not None and weights.key_norm is not None:
            queries = normed_heads(heads[:, : self.config.heads], weights.query_norm, self.config.norm_eps)
            keys = normed_heads(heads[:, self.config.heads :], weights.key_norm, self.config.norm_eps)
            rotate(torch.cat([queries, keys], dim=1), rows.cos, rows.sin, out=heads)
        else:
            rotate(heads, rows.cos, rows.sin, out=heads)

    def _feed_forward(self, index: int, weights: Mlp | Moe, hidden: Tensor, delta: Delta | None) -> Tensor:
        if isinstance(weights, Moe):
            return weights(hidden, self.config.norm_eps, self.config.activation)
        normed = normed_rows(hidden, weights.norm, self.config.norm_eps)
        both = weights.gate_up(normed)
        if delta is not None:
            delta.add(index, "gate_up", normed, both)
        gate, up = both.chunk(2, dim=1)
        inner = F.silu(gate) if self.config.activation == "silu" else F.gelu(gate, approximate="tanh")
        inner, eps = inner.mul_(up), self.config.norm_eps
        return add_output(hidden, inner, weights.down, weights.residual, eps, delta, (index, "down"))
