"""Slow memory: a temporary file with the weights of every expert, read no faster than a given rate.

The bytes are really moved, from the file into the memory that products read; after each read the reader
waits until a link of that rate would have delivered them. `bench.runtime.experts.pinned_memory` is for a GPU.
"""

from __future__ import annotations

import os
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.linear import Linear
from bench.runtime.moe import Expert

Key = tuple[int, int]
"""An expert: its layer and its number in the layer."""


class ExpertMemory(Protocol):
    """Where experts lie that are not in the fast store."""

    count: int
    """Experts of the model."""
    expert_bytes: int
    """Bytes of one of them."""

    def blank(self) -> Expert:
        """An expert without values, to read others into."""

    def read(self, key: Key, into: Expert) -> None:
        """Overwrite an expert by the stored one; returns when its values are there.

        Raises:
            UserError: If it cannot be read whole.
        """


class SlowMemory:
    """The experts of a model in a file that disappears with the process.

    Args:
        experts: Every expert, all of the same shape.
        bytes_per_s: Rate at which they can be read.
    """

    def __init__(self, experts: Mapping[Key, Expert], bytes_per_s: float) -> None:
        self.bytes_per_s, self.count = bytes_per_s, len(experts)
        first = next(iter(experts.values()))
        self._sample = first
        self._file = tempfile.TemporaryFile(prefix="experts-")  # noqa: SIM115 - open as long as this object
        weakref.finalize(self, self._file.close)
        self._offsets: dict[Key, int] = {}
        for key, expert in experts.items():
            self._offsets[key] = self._file.tell()
            for memory in _memories(expert):
                self._file.write(memory)
        self._file.flush()
        self.expert_bytes = sum(memory.nbytes for memory in _memories(first))

    def blank(self) -> Expert:
        """An expert without values, to read others into."""
        return Expert(_blank(self._sample.gate_up), _blank(self._sample.down))

    def read(self, key: Key, into: Expert) -> None:
        """Overwrite an expert by the stored one; takes at least its size divided by the rate.

        Raises:
            UserError: If the file has become shorter.
        """
        begun = time.monotonic()
        memories = _memories(into)
        got = os.preadv(self._file.fileno(), memories, self._offsets[key])
        if got != self.expert_bytes:
            raise UserError(
                f"expert {key[1]} of layer {key[0]} could not be read: "
                f"{got} of {self.expert_bytes} bytes came",
                "keep the temporary folder (TMPDIR) on a disk with room, and untouched while a run lasts",
            )
        wait_for_link(begun, got, self.bytes_per_s)


def wait_for_link(begun: float, size: int, bytes_per_s: float) -> None:
    """Wait until a link of this rate would have delivered `size` bytes that were asked for at `begun`.

    Args:
        begun: By `time.monotonic`, in seconds.
        size: In bytes.
        bytes_per_s: Rate of the link.
    """
    rest = begun + size / bytes_per_s - time.monotonic()
    if rest > 0:
        time.sleep(rest)


def _memories(expert: Expert) -> Sequence[memoryview]:
    """The bytes of its two matrices, as they lie in memory."""
    return [_bytes(linear.buffer) for linear in (expert.gate_up, expert.down)]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().view(-1).view(torch.uint8).numpy().data


def _blank(linear: Linear) -> Linear:
    """A projection of the same shape whose product reads its `Linear.buffer`."""
    with torch.inference_mode(mode=False):
        outputs, inputs = linear.shape
        # made from its transpose, which is the memory that PyTorch's product then reads
        return Linear(torch.zeros(inputs, outputs, dtype=linear.buffer.dtype).t())
