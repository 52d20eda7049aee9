"""A pass in one C call on the CPU: the tier ``compiled``.

Decoding token by token, a small model spends most of its time on starting operations, some thirty per layer;
a larger model on several cores spends it on handing each operation to the threads. `CompiledDecoder` runs its
rows through any range of layers in one call of ``layers.c``, as the graph tier does in one launch on a GPU.
Only a `Delta` that is not a `LowRankDelta` makes a pass run operation by operation.

It needs fp32 and a C compiler, see `bench.runtime.tiers.compiled.library`.

Shapes: R rows of a pass, d width, L layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.cache import KVCache
from bench.runtime.decoder import NO_SKIP, Decoder, Skip, Taps, Tier
from bench.runtime.delta import Delta, LowRankDelta
from bench.runtime.delta import Projection as ProjectionName
from bench.runtime.layers import Weights, dense
from bench.runtime.linear import Linear
from bench.runtime.residual import Residual
from bench.runtime.rows import Placement, Rows
from bench.runtime.tiers.compiled import structures
from bench.runtime.tiers.compiled.library import required_library

_ACTIVATIONS = ("silu", "gelu_tanh")
_NO_ATTENTION, _NO_MLP = 1, 2
_PROJECTIONS: tuple[ProjectionName, ...] = ("qkv", "o", "gate_up", "down")


class CompiledDecoder(Decoder):
    """A `Decoder` whose passes are single C calls; fp32, on the CPU.

    Args: See `Decoder`.
    """

    tier: Tier = "compiled"

    def __init__(self, weights: Weights, cache: KVCache, placement: Placement) -> None:
        super().__init__(weights, cache, placement)
        self._library = required_library()
        self._model = self._shape()
        self._table = (structures.Layer * self.depth)(*(self._entry(index) for index in range(self.depth)))
        self._call = structures.Pass()
        self._places = tuple(self._call.places)
        self._scratch = self.embedding.new_empty(0)
        self._changes: _Changes | None = None
        self._skips: tuple[Skip, ctypes.Array[ctypes.c_uint8] | None] = (NO_SKIP, None)

    def head(self, hidden: Tensor, lm_head: Linear | None = None) -> Tensor:
        """See `Decoder.head`."""
        normed = hidden.new_empty(hidden.shape)
        count, width = hidden.shape
        hidden = hidden.contiguous()
        self._library.norm_rows(
            count,
            width,
            hidden.data_ptr(),
            self.final_norm.data_ptr(),
            self.config.norm_eps,
            normed.data_ptr(),
        )
        return (lm_head or self.lm_head)(normed)

    def _pass(
        self, hidden: Tensor, rows: Rows, layers: range, skip: Skip, delta: Delta | None, taps: Taps | None
    ) -> Tensor:
        if delta is not None and not self._is_compiled(delta):
            return super()._pass(hidden, rows, layers, skip, delta, taps)
        hidden = hidden.contiguous()
        kept_alive = self._describe(hidden, rows, self._changes if delta is not None else None)
        start = layers.start
        for end in _stops(layers, taps):
            if start < end:
                writing = (index for index in range(start, end) if index not in skip.attention)
                self.cache.advance(writing, rows.base, rows.writes)
                hidden = self._run(hidden, start, end, skip)
            if taps is not None and end in taps:
                taps[end] = hidden
            start = end
        del kept_alive  # the C call pointed into these tensors
        return hidden

    def _describe(self, hidden: Tensor, rows: Rows, changes: _Changes | None) -> tuple[Tensor, ...]:
        """Fill in the C structure of this pass; returns the tensors that must live until it has run."""
        call, count = self._call, hidden.shape[0]
        kept_alive = _fill(self._places[0], rows, count, self.config.window)
        if rows.alternate is not None and self.config.alternate is not None:
            window = self.config.alternate.window
            kept_alive += _fill(self._places[1], rows.alternate, count, window)
        call.rows, call.base, call.writes = count, rows.base, rows.writes
        call.threads = torch.get_num_threads()
        if changes is None:
            call.changes = None
        else:
            call.changes, call.first_changed = ctypes.addressof(changes.table), changes.delta.first
        needed = self._library.scratch_size(ctypes.byref(self._model), count, call.threads)
        if self._scratch.numel() < needed:
            self._scratch = hidden.new_empty(needed)
        call.scratch = self._scratch.data_ptr()
        return kept_alive

    def _is_compiled(self, delta: Delta) -> bool:
        """Whether the C code can add this delta; remembers the last, as the check costs more than a layer."""
        if self._changes is None or self._changes.delta is not delta:
            if not isinstance(delta, LowRankDelta):
                return False
            self._changes = _Changes(delta, self.depth, self._library.lanes())
        return True

    def _run(self, hidden: Tensor, start: int, stop: int, skip: Skip) -> Tensor:
        out, call = torch.empty_like(hidden), self._call
        call.start, call.stop = start, stop
        call.hidden, call.out = hidden.data_ptr(), out.data_ptr()
        if skip is not self._skips[0]:
            self._skips = skip, self._flags(skip)
        flags = self._skips[1]
        call.skips = None if flags is None else ctypes.addressof(flags)
        self._library.run_layers(ctypes.byref(self._model), self._table, ctypes.byref(call))
        return out

    def _flags(self, skip: Skip) -> ctypes.Array[ctypes.c_uint8] | None:
        if not (skip.attention or skip.mlp):
            return None
        flags = (ctypes.c_uint8 * self.depth)()
        for index in range(self.depth):
            flags[index] = _NO_ATTENTION * (index in skip.attention) + _NO_MLP * (index in skip.mlp)
        return flags

    def _shape(self) -> structures.Model:
        config = self.config
        projections = [_compiled(linear) for layer in self.layers for linear in layer.projections()]
        return structures.Model(
            width=config.width,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            capacity=self.cache.capacity + self.cache.spare,
            most_inputs=max((projection.inputs for projection in projections), default=1),
            most_outputs=max((projection.outputs for projection in projections), default=1),
            eps=config.norm_eps,
            activation=_ACTIVATIONS.index(config.activation),
        )

    def _entry(self, index: int) -> structures.Layer:
        attention, mlp = self.layers[index].attention, dense(self.layers[index].mlp)
        keys, values = self.cache.stores[index].unbind()
        scale = attention.score_scale
        entry = structures.Layer(
            attention_norm=_pointer(attention.norm),
            query_norm=_pointer(attention.query_norm),
            key_norm=_pointer(attention.key_norm),
            query_norm_width=_width(attention.query_norm),
            key_norm_width=_width(attention.key_norm),
            place=int(attention.is_alternate),
            score_scale=self.config.head_dim**-0.5 if scale is None else scale,
            attention_residual=_residual(attention.residual),
            qkv=_compiled(attention.qkv),
            o=_compiled(attention.o),
            keys=keys.data_ptr(),
            values=values.data_ptr(),
        )
        if mlp is not None:
            entry.mlp_norm, entry.mlp_residual = _pointer(mlp.norm), _residual(mlp.residual)
            entry.gate_up, entry.down = _compiled(mlp.gate_up), _compiled(mlp.down)
        return entry


def _fill(place: structures.Place, rows: Rows, count: int, window: int | None) -> tuple[Tensor, ...]:
    """Describe how layers of one kind place `count` rows; returns the tensors that the C code points into."""
    cos, sin = (table.expand(count, -1, -1).contiguous() for table in (rows.cos, rows.sin))
    mask = None if rows.mask is None else rows.mask.contiguous()
    place.cos, place.sin, place.rotary = cos.data_ptr(), sin.data_ptr(), cos.shape[-1]
    # A chain needs no mask: `base` says which slots each row sees, and masked slots would cost time.
    place.is_causal = rows.is_causal or (rows.is_chain and rows.writes == count and not window)
    if mask is None or place.is_causal:
        place.mask = None
    else:
        place.mask, place.mask_stride = mask.data_ptr(), mask.stride(0)
    return cos, sin, *(() if mask is None else (mask,))


class _Changes:
    """A low-rank delta in the layout that the C code reads.

    Args:
        delta: The delta.
        depth: Layers of the decoder (L).
        lanes: Numbers of a vector; matrices are padded to whole vectors.
    """

    def __init__(self, delta: LowRankDelta, depth: int, lanes: int) -> None:
        self.delta = delta
        self.table = (structures.Change * (depth * len(_PROJECTIONS)))()
        self._kept_alive: list[Tensor] = []  # the table points into them
        places = ((layer, projection) for layer in range(depth) for projection in _PROJECTIONS)
        for entry, place in zip(self.table, places, strict=True):
            factors = delta.factors(*place)
            if factors is not None:
                inner, outer = (
                    F.pad(matrix, (0, -matrix.shape[1] % lanes)).contiguous() for matrix in factors
                )
                self._kept_alive += [inner, outer]
                entry.inner, entry.outer = inner.data_ptr(), outer.data_ptr()
                entry.rank, entry.outputs = outer.shape[0], factors[1].shape[1]


def _stops(layers: range, taps: Taps | None) -> Iterator[int]:
    """Layers at which a pass has to stop: its taps, in order, and its end."""
    if taps is not None:
        yield from sorted(layer for layer in taps if layers.start <= layer < layers.stop)
    yield layers.stop


def _compiled(linear: Linear) -> structures.Projection:
    if linear.compiled is None:
        raise RuntimeError("a projection of this decoder has no compiled product: it is not fp32 on the CPU")
    return linear.compiled.projection


def _pointer(weight: Tensor | None) -> int | None:
    return None if weight is None else weight.data_ptr()


def _width(weight: Tensor | None) -> int:
    return 0 if weight is None else weight.numel()


def _residual(by: Residual) -> structures.Residual:
    return structures.Residual(_pointer(by.norm), by.scale)
