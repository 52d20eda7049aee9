"""Tensors that say they are on CUDA; their numbers are in a CPU tensor.

A build of torch without CUDA lacks some of what Python calls on such a tensor directly. The methods below
replace those calls by operations that `tests.runtime.pretended_cuda.device.PretendedCuda` sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CUDA = torch.device("cuda", 0)
_aten = torch.ops.aten


class CudaTensor(Tensor):
    """A tensor on the pretended device.

    Args:
        on_cpu: Its numbers; views of it share their memory.
    """

    on_cpu: Tensor

    @staticmethod
    def __new__(cls: type[CudaTensor], on_cpu: Tensor) -> CudaTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            on_cpu.size(),
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            device=CUDA,
            requires_grad=False,
        )
        made.on_cpu = on_cpu
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a pretended CUDA tensor outside of `with PretendedCuda()`")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def item(self) -> Any:
        return self.cpu().item()

    def __bool__(self) -> bool:
        return bool(self.cpu())

    def __float__(self) -> float:
        return float(self.cpu())

    def __int__(self) -> int:
        return int(self.cpu())

    def __index__(self) -> int:
        return int(self.cpu())

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    def __invert__(self) -> Tensor:
        return torch.bitwise_not(self)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.unbind())

    def contiguous(self, **_: Any) -> Tensor:
        return self if self.is_contiguous() else self.clone(memory_format=torch.contiguous_format)

    def copy_(self, source: Tensor, non_blocking: bool = False) -> Tensor:
        return _aten.copy_.default(self, source, non_blocking)

    def new_tensor(self, data: Any, **_: Any) -> Tensor:
        return torch.tensor(data, dtype=self.dtype, device=CUDA)

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __getitem__(self, index: Any) -> Tensor:
        base, picks = _indexed(self, index)
        return base if picks is None else _aten.index.Tensor(base, picks)

    def __setitem__(self, index: Any, value: Any) -> None:
        base, picks = _indexed(self, index)
        if picks is not None:
            if not isinstance(value, Tensor):
                value = torch.full((), value, dtype=self.dtype)
            _aten.index_put_.default(base, picks, value)
        elif isinstance(value, Tensor):
            base.copy_(value)
        else:
            base.fill_(value)

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.on_cpu!r})"


def _indexed(x: CudaTensor, index: Any) -> tuple[CudaTensor, list[Any] | None]:
    """A view by slices, numbers and None, and the tensors of `index` as ``aten.index`` takes them."""
    view, dim, picks = x.on_cpu, 0, []
    for item in _without_ellipsis(index, x.dim()):
        if isinstance(item, list):
            item = torch.tensor(item)
        if isinstance(item, Tensor) and (item.dim() or item.dtype == torch.bool):
            picks += [None] * (dim - len(picks)) + [item]
            dim += item.dim() if item.dtype == torch.bool else 1
        elif item is None:
            view, dim = view.unsqueeze(dim), dim + 1
        elif isinstance(item, slice):
            start, stop, step = item.indices(view.shape[dim])
            view, dim = _aten.slice.Tensor(view, dim, start, max(start, stop), step), dim + 1
        else:
            view = view.select(dim, int(item))
    return (x if view is x.on_cpu else CudaTensor(view)), picks or None


def _without_ellipsis(index: Any, dims: int) -> list[Any]:
    items = list(index) if isinstance(index, tuple) else [index]
    places = [place for place, item in enumerate(items) if item is Ellipsis]
    for place in places:
        used = sum(item is not None and item is not Ellipsis for item in items)
        items[place : place + 1] = [slice(None)] * (dims - used)
    return items
