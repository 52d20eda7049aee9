"""A pass in one call on the CPU: the tier ``compiled``.

Decoding token by token, a small model spends most of its time starting operations, some thirty per layer, and
a larger one on several cores in handing each of them to the threads. `CompiledDecoder` passes its rows
through any range of layers by one call of ``native/layers.c``, as the graph tier does by one launch on a GPU.
The methods do not notice. Passes with a `Delta` of no low rank run operation by operation.

Needs fp32 and a C compiler, see `bench.runtime.tiers.native.build`.

Shapes: R rows of a pass, d width, L layers, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, MutableMapping, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.cache import KVCache
from bench.runtime.decoder import NO_SKIP, Decoder, Layer, Skip, Tier
from bench.runtime.delta import Delta, LowRankDelta
from bench.runtime.delta import Projection as ProjectionName
from bench.runtime.families import DecoderConfig
from bench.runtime.linear import Linear
from bench.runtime.rows import Placement, Rows
from bench.runtime.tiers.native.build import Missing, library
from bench.runtime.tiers.native.products import lanes
from bench.runtime.tiers.native.structures import Change, Model, Pass, Projection
from bench.runtime.tiers.native.structures import Layer as Entry

_ACTIVATIONS = ("silu", "gelu_tanh")
_NO_ATTENTION, _NO_MLP = 1, 2
_PROJECTIONS: tuple[ProjectionName, ...] = ("qkv", "o", "gate_up", "down")


@cache
def _library() -> ctypes.CDLL:
    found = library()
    if isinstance(found, Missing):
        raise RuntimeError(found.reason)  # `choose_tier` has looked before
    found.run_layers.argtypes = [ctypes.c_void_p] * 3
    found.run_layers.restype = None
    found.scratch_size.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    found.scratch_size.restype = ctypes.c_int64
    found.norm_rows.argtypes = [
        *[ctypes.c_int64] * 2,
        *[ctypes.c_void_p] * 2,
        ctypes.c_float,
        ctypes.c_void_p,
    ]
    found.norm_rows.restype = None
    return found


class CompiledDecoder(Decoder):
    """A `Decoder` whose passes are single calls; fp32, on the CPU.

    Args: See `Decoder`.
    """

    tier: Tier = "compiled"

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
        super().__init__(config, embedding, layers, final_norm, lm_head, cache, placement)
        self._library = _library()
        self._model = self._shape()
        self._table = (Entry * self.depth)(*(self._entry(index) for index in range(self.depth)))
        self._pass = Pass()
        self._scratch = embedding.new_empty(0)
        self._changes: _Changes | None = None
        self._skips: tuple[Skip, ctypes.Array[ctypes.c_uint8] | None] = (NO_SKIP, None)

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
        """See `Decoder.run_layers`."""
        stop = self.depth if stop is None else stop
        if delta is not None and not self._has_laid_out(delta):
            return super().run_layers(hidden, rows, start, stop, skip=skip, delta=delta, taps=taps)
        hidden = hidden.contiguous()
        held = self._place(hidden, rows, self._changes if delta is not None else None)
        for end in _stretches(start, stop, taps):
            if start < end:
                writing = (index for index in range(start, end) if index not in skip.attention)
                self.cache.advance(writing, rows.base, rows.writes)
                hidden = self._run(hidden, start, end, skip)
            if taps is not None and end in taps:
                taps[end] = hidden
            start = end
        del held  # the pass points into it
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
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
        return self.lm_head(normed)

    def _place(self, hidden: Tensor, rows: Rows, changes: _Changes | None) -> tuple[Tensor, ...]:
        """Describe the rows to the pass; tensors that must live as long as it runs."""
        this, count = self._pass, hidden.shape[0]
        cos, sin = (one.expand(count, -1, -1).contiguous() for one in (rows.cos, rows.sin))
        mask = None if rows.mask is None else rows.mask.contiguous()
        this.rows, this.base, this.writes = count, rows.base, rows.writes
        this.cos, this.sin = cos.data_ptr(), sin.data_ptr()
        this.threads = torch.get_num_threads()
        # A chain's mask says no more than its base does, and what it hides would cost as much as the rest.
        this.is_causal = rows.is_causal or (rows.is_chain and rows.writes == count and not self.config.window)
        if mask is None or this.is_causal:
            this.mask = None
        else:
            this.mask, this.mask_stride = mask.data_ptr(), mask.stride(0)
        if changes is None:
            this.changes = None
        else:
            this.changes, this.first_changed = ctypes.addressof(changes.table), changes.delta.first
        wanted = self._library.scratch_size(ctypes.byref(self._model), count, this.threads)
        if self._scratch.numel() < wanted:
            self._scratch = hidden.new_empty(wanted)
        this.scratch = self._scratch.data_ptr()
        return cos, sin, *(() if mask is None else (mask,))

    def _has_laid_out(self, delta: Delta) -> bool:
        """Whether a pass can add this; the one at hand is kept, for asking costs more than a layer."""
        if self._changes is None or self._changes.delta is not delta:
            if not isinstance(delta, LowRankDelta):
                return False
            self._changes = _Changes(delta, self.depth)
        return True

    def _run(self, hidden: Tensor, start: int, stop: int, skip: Skip) -> Tensor:
        out, this = torch.empty_like(hidden), self._pass
        this.start, this.stop = start, stop
        this.hidden, this.out = hidden.data_ptr(), out.data_ptr()
        if skip is not self._skips[0]:
            self._skips = skip, self._flags(skip)
        flags = self._skips[1]
        this.skips = None if flags is None else ctypes.addressof(flags)
        self._library.run_layers(ctypes.byref(self._model), self._table, ctypes.byref(this))
        return out

    def _flags(self, skip: Skip) -> ctypes.Array[ctypes.c_uint8] | None:
        if not (skip.attention or skip.mlp):
            return None
        flags = (ctypes.c_uint8 * self.depth)()
        for index in range(self.depth):
            flags[index] = _NO_ATTENTION * (index in skip.attention) + _NO_MLP * (index in skip.mlp)
        return flags

    def _shape(self) -> Model:
        config = self.config
        linears = [one.compiled.projection for one in _linears(self.layers) if one.compiled is not None]
        return Model(
            width=config.width,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            rotary=self.placement.rotary,
            capacity=self.cache.capacity + self.cache.spare,
            most_inputs=max((one.inputs for one in linears), default=1),
            most_outputs=max((one.outputs for one in linears), default=1),
            eps=config.norm_eps,
            score_scale=self._score_scale,
            activation=_ACTIVATIONS.index(config.activation),
        )

    def _entry(self, index: int) -> Entry:
        attention, mlp = self.layers[index].attention, self.layers[index].mlp
        keys, values = self.cache.stores[index].unbind()
        entry = Entry(
            attention_norm=attention.norm.data_ptr(),
            query_norm=_pointer(attention.query_norm),
            key_norm=_pointer(attention.key_norm),
            qkv=_projection(attention.qkv),
            o=_projection(attention.o),
            keys=keys.data_ptr(),
            values=values.data_ptr(),
        )
        if mlp is not None:
            entry.mlp_norm = mlp.norm.data_ptr()
            entry.gate_up, entry.down = _projection(mlp.gate_up), _projection(mlp.down)
        return entry


class _Changes:
    """A delta as the compiled pass reads it.

    Args:
        delta: What rows add.
        depth: Layers of the decoder (L).
    """

    def __init__(self, delta: LowRankDelta, depth: int) -> None:
        self.delta = delta
        self.table = (Change * (depth * len(_PROJECTIONS)))()
        self._held: list[Tensor] = []  # the table points into them
        places = ((layer, projection) for layer in range(depth) for projection in _PROJECTIONS)
        for entry, place in zip(self.table, places, strict=True):
            factors = delta.factors(*place)
            if factors is not None:
                inner, outer = (_padded(one) for one in factors)
                self._held += [inner, outer]
                entry.inner, entry.outer = inner.data_ptr(), outer.data_ptr()
                entry.rank, entry.outputs = outer.shape[0], factors[1].shape[1]


def _padded(matrix: Tensor) -> Tensor:
    """The matrix with columns of zeros up to whole vectors."""
    return F.pad(matrix, (0, -matrix.shape[1] % lanes())).contiguous()


def _stretches(start: int, stop: int, taps: MutableMapping[int, Tensor] | None) -> Iterator[int]:
    """Where a pass has to stop: at its taps, in order, and at its end."""
    if taps is not None:
        yield from sorted(layer for layer in taps if start <= layer < stop)
    yield stop


def _linears(layers: Sequence[Layer]) -> Iterator[Linear]:
    for layer in layers:
        yield from (layer.attention.qkv, layer.attention.o)
        if layer.mlp is not None:
            yield from (layer.mlp.gate_up, layer.mlp.down)


def _projection(linear: Linear) -> Projection:
    if linear.compiled is None:
        raise RuntimeError("the projection is not compiled")
    return linear.compiled.projection


def _pointer(weight: Tensor | None) -> int | None:
    return None if weight is None else weight.data_ptr()
