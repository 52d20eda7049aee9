"""A model whose layers lie on several devices: which layer lies where, and how the rows of a pass get there.

Each device holds a run of consecutive layers with their weights, keys and values. The first device, the home,
also holds the embedding, the head and the modules of methods: rows enter and leave every pass there, so
methods never notice the others. A pass copies its rows once per device that it enters, and back home at its
end. Nothing is computed twice, and only one device works at a time: this makes room, not speed.

Shapes: R rows, d width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.cache import KVCache
from bench.runtime.delta import Delta, Projection
from bench.runtime.rows import Rows
from bench.runtime.transfer import upload

GIB = 1 << 30
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


class RunPart(Protocol):
    """Runs rows through layers of one device."""

    def __call__(self, hidden: Tensor, rows: Rows, layers: range, *, delta: Delta | None) -> Tensor:
        """Rows leaving the last of the layers; all tensors lie on the layers' device."""


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive layers on one device.

    Args:
        device: The device.
        layers: Their indices.
    """

    device: torch.device
    layers: range


def parts_of(devices: Sequence[torch.device]) -> tuple[Part, ...]:
    """The parts of a model whose layer l lies on ``devices[l]``; none if all lie on one device."""
    parts, start = [], 0
    for device, run in groupby(devices):
        stop = start + len(list(run))
        parts.append(Part(device, range(start, stop)))
        start = stop
    return tuple(parts) if len(parts) > 1 else ()


def layer_of(name: str) -> int | None:
    """The layer that a checkpoint's tensor belongs to; None for embedding, head and last norm."""
    found = _LAYER.match(name)
    return None if found is None else int(found[1])


@dataclass(frozen=True, slots=True)
class Load:
    """What a model asks of its devices, in bytes.

    Args:
        home: Of everything outside the layers: embedding, head, last norm.
        layers: Of each layer, its keys and values included.
    """

    home: int
    layers: tuple[int, ...]

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]], width: int, layer_cache: int) -> Load:
        """From the names and shapes of a checkpoint's tensors.

        Args:
            shapes: By name, as transformers names them.
            width: Bytes of a number.
            layer_cache: Bytes of one layer's keys and values at full length.
        """
        layers: dict[int, int] = {}
        home = 0
        for name, shape in shapes.items():
            if (index := layer_of(name)) is not None:
                layers[index] = layers.get(index, layer_cache) + prod(shape) * width
            else:
                home += prod(shape) * width
        return cls(home, tuple(layers[index] for index in sorted(layers)))

    def share(self, devices: Sequence[torch.device], rooms: Sequence[int]) -> list[torch.device]:
        """The device of every layer, so that the shares of all devices' memory in use are as equal as can be.

        Args:
            devices: The home first.
            rooms: Bytes that each has free.

        Raises:
            UserError: If there are fewer layers than devices, or the model does not fit.
        """
        if len(self.layers) < len(devices):
            raise UserError(
                f"runtime.devices={len(devices)}, and the model has {len(self.layers)} layers",
                "use no more devices than layers",
            )
        total = self.home + sum(self.layers)
        if total > sum(rooms):
            raise UserError(
                f"weights and cache need {total / GIB:.1f} GiB, and {len(devices)} devices have "
                f"{sum(rooms) / GIB:.1f} GiB together",
                "use more devices, runtime.dtype=bfloat16, or a smaller runtime.max_length",
            )
        placed = self._filled(devices, rooms, total / sum(rooms))
        self._require_room(placed, devices, rooms)
        return placed

    def _filled(
        self, devices: Sequence[torch.device], rooms: Sequence[int], share: float
    ) -> list[torch.device]:
        """Layers in order; a device takes the next one while that brings it nearer to its share."""
        placed: list[torch.device] = []
        used, place = self.home, 0
        for index, size in enumerate(self.layers):
            still = len(self.layers) - index
            is_full = used + size / 2 > share * rooms[place]
            must_move = still <= len(devices) - 1 - place
            if place + 1 < len(devices) and (must_move or (is_full and (place > 0 or placed))):
                used, place = 0, place + 1
            placed.append(devices[place])
            used += size
        return placed

    def _require_room(
        self, placed: Sequence[torch.device], devices: Sequence[torch.device], rooms: Sequence[int]
    ) -> None:
        for number, (device, room) in enumerate(zip(devices, rooms, strict=True)):
            needed = sum(
                size for size, own in zip(self.layers, placed, strict=True) if own is device
            ) + self.home * (number == 0)
            if needed > room:
                raise UserError(
                    f"{device} would hold {needed / GIB:.1f} GiB, and has {room / GIB:.1f} GiB",
                    "use more devices, runtime.dtype=bfloat16, or a smaller runtime.max_length",
                )


class SpreadCache(KVCache):
    """A `KVCache` whose layers lie on the devices of their weights.

    Args:
        parts: Layers and devices.
        kv_heads: As for `KVCache`; likewise the others.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        kv_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
    ) -> None:
        self.capacity = capacity
        shape = (2, kv_heads, capacity, head_dim)
        self._blocks = [
            torch.zeros((len(part.layers), *shape), dtype=dtype, device=part.device) for part in parts
        ]
        self._stores = [store for block in self._blocks for store in block.unbind()]
        self.parts = parts_of([store.device for store in self._stores])
        self.lengths = [0] * len(self._stores)

    def _move(self, base: int, path: Tensor, layers: range) -> None:
        for part, block in zip(self.parts, self._blocks, strict=True):
            start, stop = max(layers.start, part.layers.start), min(layers.stop, part.layers.stop)
            if start < stop:
                own = block[start - part.layers.start : stop - part.layers.start]
                slots = upload(base + path, part.device).to(part.device)
                own[:, :, :, base : base + path.numel()] = own.index_select(3, slots)


class _Carried:
    """A delta whose tensors lie at home, added to projections of another device."""

    def __init__(self, delta: Delta, home: torch.device) -> None:
        self._delta, self._home = delta, home

    def add(self, layer: int, projection: Projection, inputs: Tensor, outputs: Tensor) -> None:
        """See `Delta.add`."""
        changed = outputs.to(self._home)
        self._delta.add(layer, projection, inputs.to(self._home), changed)
        outputs.copy_(changed)


def run_across(
    parts: Sequence[Part],
    run: RunPart,
    hidden: Tensor,
    rows: Rows,
    layers: range,
    delta: Delta | None,
    taps: MutableMapping[int, Tensor] | None,
) -> Tensor:
    """Run rows through layers of several devices; they come from home, and end there.

    Args:
        parts: Of the model, in order.
        run: Runs a part.
        hidden: Rows entering the first layer, shape [R, d].
        rows: Their placement at home.
        layers: Which layers.
        delta: Changes to projections, whose tensors lie at home.
        taps: Brought home once `run` has filled them.

    Returns:
        Rows leaving the last layer, shape [R, d].
    """
    home = hidden.device
    for part in parts:
        own = range(max(layers.start, part.layers.start), min(layers.stop, part.layers.stop))
        if not own:
            continue
        if part.device == home:
            hidden = run(_on(hidden, home), _rows_on(rows, home), own, delta=delta)
        else:
            carried = None if delta is None else _Carried(delta, home)
            hidden = run(_on(hidden, part.device), _rows_on(rows, part.device), own, delta=carried)
    if taps is not None:
        taps.update({layer: _on(tapped, home) for layer, tapped in taps.items() if layer in _ends(layers)})
    return _on(hidden, home)


def _ends(layers: range) -> range:
    """The taps that a pass through these layers fills."""
    return range(layers.start, layers.stop + 1)


def _on(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor if tensor.device == device else tensor.to(device, non_blocking=True)


def _rows_on(rows: Rows, device: torch.device) -> Rows:
    if rows.cos.device == device:
        return rows
    mask = None if rows.mask is None else _on(rows.mask, device)
    other = None if rows.alternate is None else _rows_on(rows.alternate, device)
    return replace(rows, cos=_on(rows.cos, device), sin=_on(rows.sin, device), mask=mask, alternate=other)
