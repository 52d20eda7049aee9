"""The peak memory of a computation, measured by running it on tensors without storage.

Tensors on torch's meta device have shapes but no numbers. `StorageCounter` sees every operation on them,
backward passes included, and adds up the sizes of all storages that are alive at the same time. If the
computation reads a number, it gets one that makes the computation large: every mask is true everywhere, every
value is the same.

Not counted are the workspace of kernels and the memory that an allocator loses to fragmentation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class StorageCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts the bytes of all live storages that were created within its ``with`` block.

    Args:
        value: The number returned for every value that the computation reads.
    """

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._value = value
        self._alive: set[int] = set()
        self._live_bytes = 0
        self.peak_bytes: int = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an overload of a torch operation
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operation returns
        inputs = {_storage(leaf)._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = self._run(func, args, dict(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _storage(leaf)._cdata not in inputs:  # else a view, or in place
                self._add(_storage(leaf))
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self._live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._live_bytes -= size

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401 - as above
        first = args[0] if args else None
        if not isinstance(first, Tensor) or not first.is_meta:
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return True if first.dtype == torch.bool else first.new_tensor(self._value, device="cpu").item()
        if func is aten.nonzero.default:
            return first.new_empty(first.numel(), first.dim(), dtype=torch.int64)
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            args = (first, [part for index in args[1] for part in _places(index)], *args[2:])
        if func is aten._to_copy.default and torch.device(kwargs.get("device") or "meta").type == "cpu":
            return torch.full(first.shape, self._value, dtype=kwargs.get("dtype") or first.dtype)
        return func(*args, **kwargs)


class FusedAttention(TorchFunctionMode):
    """Makes attention on tensors without storage allocate what a fused kernel does: mask and rows, no scores.

    Torch itself would choose the unfused implementation for them.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        named = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention or not args[0].is_meta:
            return func(*args, **named)
        mask = named.get("attn_mask")
        if mask is not None and mask.dtype == torch.bool:  # torch converts it to numbers for every kernel
            mask = args[0].new_zeros(mask.shape).masked_fill(~mask, float("-inf"))
        fused = aten._scaled_dot_product_flash_attention_for_cpu
        return fused(*args[:3], 0.0, named.get("is_causal", False), attn_mask=mask)[0]


def peak_bytes(run: Callable[[], object], value: float = 0.0) -> int:
    """Largest number of bytes that `run` has allocated at the same time.

    Args:
        run: A computation on tensors of the meta device.
        value: The number returned for every value that it reads.
    """
    counter = StorageCounter(value)
    with FusedAttention(), counter:
        run()
    return counter.peak_bytes


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _places(index: Tensor | None) -> list[Tensor | None]:
    """The indices of all entries for a boolean mask; any other index unchanged."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [index.new_empty(index.numel(), dtype=torch.int64)] * index.dim()
