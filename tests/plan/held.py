"""The bytes of all tensors that an object holds, to compare an estimate with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tests.runtime.pretended_cuda.tensors import CudaTensor

_OURS = ("bench.", "methods.")


def held_bytes(*roots: object) -> int:
    """Bytes of the storages that the objects of `bench` and `methods` below `roots` hold, each counted once.

    What a recording keeps to replay is left out: on a GPU it lies in memory that all recordings share.
    """
    storages: dict[int, int] = {}
    seen: dict[int, object] = {}
    waiting: list[object] = list(roots)
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, Tensor):
            storage = (item.on_cpu if isinstance(item, CudaTensor) else item).untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        else:
            waiting.extend(_parts(item))
    return sum(storages.values())


def _parts(item: object) -> list[object]:
    if isinstance(item, Mapping):
        return [*item.keys(), *item.values()]
    if isinstance(item, list | tuple | set | frozenset):
        return list(item)
    if not type(item).__module__.startswith(_OURS):
        return []
    names = [name for kind in type(item).__mro__ for name in _slots(kind)]
    held: list[object] = [getattr(item, name) for name in names if hasattr(item, name)]
    return [*held, *vars(item).values()] if hasattr(item, "__dict__") else held


def _slots(kind: type) -> tuple[str, ...]:
    slots = getattr(kind, "__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
