"""Recording device work once and replaying it without the host's share of it.

What is recorded runs on fixed memory: it reads and writes tensors that live as long as the recording, takes
no number from the host, and hands none back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bench.errors import UserError

Work = Callable[[], tuple[Tensor, ...]]
"""Device work; what it returns is its output, in fixed memory once it is recorded."""

_WARM_UPS = 3


@dataclass(frozen=True, slots=True)
class Recording:
    """Recorded work.

    Args:
        replay: Does the work again.
        outputs: What the work returned; every replay overwrites them.
    """

    replay: Callable[[], None]
    outputs: tuple[Tensor, ...]


@dataclass(slots=True)
class Tally:
    """What was recorded, and how passes ran.

    Attributes:
        recorded: Recordings made.
        replayed: Passes answered by replaying.
        prefill: Passes that ran unrecorded for being the first of a sequence.
        long: For having more than `bench.runtime.tiers.buckets.MOST_ROWS` rows.
        delta: For having a `Delta`.
    """

    recorded: int = 0
    replayed: int = 0
    prefill: int = 0
    long: int = 0
    delta: int = 0


class Recorder(Protocol):
    """Turns work into a `Recording`."""

    def record(self, work: Work) -> Recording:
        """Record `work`; it may run several times, so it must come to the same every time.

        Raises:
            bench.errors.UserError: If it cannot be recorded.
        """


class CudaRecorder:
    """Records CUDA graphs, all in one private memory pool, so that they share their intermediate results.

    Sharing is safe since graphs are replayed one after another on one stream, and every output is held by its
    recording.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Work) -> Recording:
        """See `Recorder.record`; the graph is not replayed here."""
        graph = torch.cuda.CUDAGraph()
        try:
            self._warm_up(work)
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                outputs = work()
        except RuntimeError as error:  # torch's own errors, out of memory among them
            raise UserError(
                f"recording a CUDA graph failed: {str(error).splitlines()[0]}",
                "use runtime.tier=static, which needs none; if memory ran out, lower runtime.max_length",
            ) from error
        return Recording(graph.replay, outputs)

    def _warm_up(self, work: Work) -> None:
        """Run on a stream of its own: libraries set themselves up on first use, which no graph may hold."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                work()
        current.wait_stream(self._stream)
