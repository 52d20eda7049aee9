"""Recordings on the pretended device: the operations of the work, run again without any Python of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten

from bench.runtime.tiers.graph.recorder import Recording, Work
from tests.runtime.pretended_cuda.device import PretendedCuda

Line = tuple[Any, tuple[Any, ...], dict[str, Any], Any]
"""An operation, its arguments by place and by name, and its result."""


class PretendedRecorder:
    """Implements `bench.runtime.tiers.graph.recorder.Recorder`.

    Args:
        device: The device that is recorded.
    """

    def __init__(self, device: PretendedCuda) -> None:
        self._device = device

    def record(self, work: Work) -> Recording:
        """Warm up once, as CUDA's recorder does, then record."""
        device = self._device
        device.is_recording = True
        try:
            work()
            device.tape = []
            outputs = work()
        finally:
            lines, device.tape = device.tape or [], None
            device.is_recording = False
        kernels = [line for line in lines if not _is_view(line)]

        def replay() -> None:
            device.launches["replay of a recording"] += 1
            with _disable_current_modes():
                _run(kernels)

        return Recording(replay, outputs)


def _run(lines: list[Line]) -> None:
    for func, args, kwargs, out in lines:
        again = func(*args, **kwargs)
        for old, new in zip(_tensors(out), _tensors(again), strict=True):
            if old.data_ptr() != new.data_ptr():
                old.copy_(new)


def _tensors(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else [part for part in out if isinstance(part, Tensor)]


def _is_view(line: Line) -> bool:
    """Views of recorded tensors stay what they are; operations in place run again."""
    func, args, _, out = line
    if any(value.alias_info is not None and value.alias_info.is_write for value in func._schema.returns):
        return False
    inputs = {item.untyped_storage().data_ptr() for item in tree_flatten(args)[0] if torch.is_tensor(item)}
    return all(part.untyped_storage().data_ptr() in inputs for part in _tensors(out))
