"""Slow memory of a GPU: the experts lie in pinned memory of the host and are copied over the host's link.

Copies run on a stream of their own, beside the passes. A copy begins when the work that the passes have
launched so far is done, since some of it may still read the expert whose place is taken. No GPU has run this
yet: tests run it on the pretended device of ``tests/runtime/pretended_cuda``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from bench.runtime.experts.slow_memory import Key, wait_for_link
from bench.runtime.linear import Linear
from bench.runtime.moe import Expert


class PinnedMemory:
    """The experts of a model that runs on a GPU, in memory of the host.

    Args:
        experts: Every expert, on the GPU, all of the same shape.
        bytes_per_s: Rate at which they are read, where the link is faster.
    """

    def __init__(self, experts: Mapping[Key, Expert], bytes_per_s: float) -> None:
        self.bytes_per_s, self.count = bytes_per_s, len(experts)
        self._sample = next(iter(experts.values()))
        self._device = self._sample.gate_up.buffer.device
        self._stored = {
            key: [weight.cpu().pin_memory() for weight in _weights(expert)] for key, expert in experts.items()
        }
        self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self.expert_bytes = sum(weight.nbytes for weight in _weights(self._sample))

    def blank(self) -> Expert:
        """An expert on the GPU without values, to read others into."""
        with torch.inference_mode(mode=False):
            gate_up, down = (Linear(torch.zeros_like(weight)) for weight in _weights(self._sample))
        return Expert(gate_up, down)

    def read(self, key: Key, into: Expert) -> None:
        """Overwrite an expert by the stored one, and wait until it is there."""
        begun = time.monotonic()
        with torch.cuda.stream(self._copies):
            self._copies.wait_stream(torch.cuda.default_stream(self._device))
            for stored, weight in zip(self._stored[key], _weights(into), strict=True):
                weight.copy_(stored, non_blocking=True)
        self._copies.synchronize()
        wait_for_link(begun, self.expert_bytes, self.bytes_per_s)


def _weights(expert: Expert) -> tuple[Tensor, Tensor]:
    """Its two matrices, each [O, I] and contiguous, as a GPU multiplies by them."""
    return expert.gate_up.buffer.detach().t(), expert.down.buffer.detach().t()
