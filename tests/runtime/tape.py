"""A recorder without a GPU: it notes the operations of the work and runs them again on the same tensors.

Like a CUDA graph, a replay runs no Python of the work, so a number from the host stays what it was when it
was recorded, and every output keeps its memory. Reading a number while recording is refused, as on CUDA.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.runtime.cache import KVCache
from bench.runtime.decoder import Decoder
from bench.runtime.layers import Layer
from bench.runtime.linear import Linear
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.runtime.tiers.graph.recorder import Recording, Work
from bench.runtime.tiers.graph.slot_cache import SlotCache

READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Tape(TorchDispatchMode):
    """Implements `bench.runtime.tiers.graph.recorder.Recorder`."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in READS, f"{func} reads a number back inside a recorded pass"
        out = func(*args, **(kwargs or {}))
        self._lines.append((func, args, kwargs or {}, out))
        return out

    def record(self, work: Work) -> Recording:
        self._lines = []
        with self:
            outputs = work()
        lines = [line for line in self._lines if not _is_view(*line)]
        return Recording(lambda: _run(lines), outputs)


def _run(lines: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]]) -> None:
    for func, args, kwargs, out in lines:
        again = func(*args, **kwargs)
        for old, new in zip(_tensors(out), _tensors(again), strict=True):
            if old.data_ptr() != new.data_ptr():
                old.copy_(new)


def _tensors(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else [part for part in out if isinstance(part, Tensor)]


def _is_view(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> bool:
    """Views of recorded tensors stay what they are; in-place operations run again.

    The schema alone does not say which: `reshape` may be a view or a copy.
    """
    if any(value.alias_info is None or value.alias_info.is_write for value in func._schema.returns):
        return False
    inputs = {value.untyped_storage().data_ptr() for value in args if isinstance(value, Tensor)}
    return all(part.untyped_storage().data_ptr() in inputs for part in _tensors(out))


def taped(decoder: Decoder) -> GraphDecoder:
    """The same weights on the graph tier, recorded on tapes; needs the fixture ``torch_products``."""
    config, old = decoder.config, decoder.cache
    assert type(old) is KVCache
    room = (config.layers, config.kv_heads, old.capacity, config.head_dim, decoder.dtype, decoder.device)
    layers = [_recordable(layer) for layer in decoder.layers]
    lm_head = _with_torch_product(decoder.lm_head)
    assert lm_head.compiled is None
    weights = replace(decoder.weights, layers=layers, lm_head=lm_head)
    return GraphDecoder(weights, SlotCache(*room), decoder.placement, Tape())


def _recordable(layer: Layer) -> Layer:
    """The layer with torch's products, which a tape sees."""
    attention = replace(
        layer.attention,
        qkv=_with_torch_product(layer.attention.qkv),
        o=_with_torch_product(layer.attention.o),
    )
    mlp = layer.mlp
    if mlp is not None:
        mlp = replace(mlp, gate_up=_with_torch_product(mlp.gate_up), down=_with_torch_product(mlp.down))
    return Layer(attention, mlp)


def _with_torch_product(linear: Linear) -> Linear:
    return Linear(linear.weight, linear.bias)
