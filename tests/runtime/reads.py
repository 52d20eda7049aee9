"""Counts how often the host would wait for a device, on a machine without one.

On a CPU reading a number costs no time, so the calls themselves are counted. A tensor made from Python
numbers, or computed from such tensors alone, is on the host: reading it is free everywhere. Every other
tensor counts as the device's. (`bench.runtime.transfer.upload` copies a host tensor to the device. A later
read of that very tensor is not counted here; the test on a GPU covers it.)
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

READS = frozenset(
    {
        *("item", "tolist", "cpu", "numpy", "nonzero", "unique", "masked_select", "equal", "is_nonzero"),
        *("__bool__", "__int__", "__float__", "__index__", "__contains__"),
    }
)
MADE_ON_HOST = (torch.tensor,)


class Reads(TorchFunctionMode):
    """Inside, `count` says how often each kind of read met a device tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self._host: Any = WeakIdKeyDictionary()

    @property
    def total(self) -> int:
        return self.count.total()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        is_of_host = bool(given) and all(tensor in self._host for tensor in given)
        name = getattr(func, "__name__", "")
        if (name in READS or _picks_by_mask(name, args)) and not is_of_host:
            self.count[name] += 1
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and (is_of_host or func in MADE_ON_HOST):
            self._host[out] = True
        return out


def _picks_by_mask(name: str, args: Any) -> bool:
    """Indexing by a boolean tensor asks how many entries are set."""
    is_index = name in ("__getitem__", "__setitem__") and len(args) > 1
    return is_index and isinstance(args[1], Tensor) and args[1].dtype == torch.bool
