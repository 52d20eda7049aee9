"""Records work on the device once and replays it, so that the host launches one graph instead of many
kernels.

Recorded work runs on fixed memory: it reads and writes tensors that live as long as the recording, takes no
number from the host and returns none to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bench.errors import UserError

Work = Callable[[], tuple[Tensor, ...]]
"""Work on the device. It returns its outputs; once it is recorded, they stay in fixed memory."""

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
    """How many recordings were made, and how many passes ran in which way.

    Attributes:
        recorded: Recordings made.
        replayed: Passes that replayed a recording.
        prefill: Passes that ran unrecorded because they were the first of a sequence.
        long: Because they had more than `bench.runtime.tiers.graph.sizes.MOST_ROWS` rows.
        delta: Because they had a `Delta` of another kind than those that are recorded.
    """

    recorded: int = 0
    replayed: int = 0
    prefill: int = 0
    long: int = 0
    delta: int = 0


class Preparable(Protocol):
    """What records in advance."""

    def prepare(self, longest: int) -> None:
        """Record what sequences of up to `longest` tokens need."""


class Recorder(Protocol):
    """Turns work into a `Recording`."""

    def record(self, work: Work) -> Recording:
        """Record `work`. It may run several times, so it must have the same effect every time.

        Raises:
            bench.errors.UserError: If it cannot be recorded.
        """


class CudaRecorder:
    """Records CUDA graphs, all in one private memory pool, so that they share memory for intermediate
    results.

    Sharing is safe because graphs are replayed one after another on one stream, and each recording holds its
    own outputs.
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
        """Run the work on the side stream: libraries initialise on first use, which no graph may contain."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                work()
        current.wait_stream(self._stream)
