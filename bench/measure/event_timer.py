"""When phases of decoding begin and end on a GPU, by CUDA events; `bench.measure.meters` uses it."""

from collections.abc import Callable
from typing import Protocol, Self

from bench.records.model import PHASES

VERIFY = PHASES.index("verify")
EVENT_POOL = 4096
"""Events made before the first turn, two per phase: some 600 rounds; a longer turn adds its own."""


class Event(Protocol):
    """The part of `torch.cuda.Event` that is used."""

    def record(self) -> None:
        """Mark this point of the current stream."""

    def elapsed_time(self, end_event: Self) -> float:
        """Milliseconds from this event to a later one, both past."""


class EventPhaseTimer:
    """Phases by events on the device's stream: the host only enqueues, and reads them after the turn."""

    def __init__(self, make_event: Callable[[], Event], pool: int = EVENT_POOL) -> None:
        self._make_event = make_event
        self._events = [make_event() for _ in range(pool)]
        self._phases: list[int] = []  # phase of each event used in this turn

    def reset(self) -> None:
        """Forget the last turn; its events are used again."""
        self._phases.clear()

    def mark(self, phase: int) -> None:
        """Enqueue an event."""
        used = len(self._phases)
        if used == len(self._events):
            self._events.append(self._make_event())
        self._events[used].record()
        self._phases.append(phase)

    def seconds(self) -> list[float]:
        """Time per phase, from pairs of events: phases do not nest."""
        totals = [0.0] * len(PHASES)
        for begin in range(0, len(self._phases) - 1, 2):
            milliseconds = self._events[begin].elapsed_time(self._events[begin + 1])
            totals[self._phases[begin]] += milliseconds / 1000
        return totals

    def verified(self) -> list[float]:
        """When each verification ended on the device."""
        ends = [end for end in range(1, len(self._phases), 2) if self._phases[end] == VERIFY]
        return [self._events[0].elapsed_time(self._events[end]) / 1000 for end in ends]
