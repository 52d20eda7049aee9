"""Readers of the time at which phases of decoding begin and end: by the host's clock, or by CUDA events."""

import time
from collections.abc import Callable
from typing import Protocol, Self

from bench.records.model import PHASES

_VERIFY = PHASES.index("verify")
EVENT_POOL = 4096
"""Events made before the first turn, two per phase: some 600 rounds; a longer turn adds its own."""


class Event(Protocol):
    """The part of `torch.cuda.Event` that is used."""

    def record(self) -> None:
        """Mark this point of the current stream."""

    def elapsed_time(self, end_event: Self) -> float:
        """Milliseconds from this event to a later one, both past."""


class PhaseTimer(Protocol):
    """Reads the time where a phase begins or ends."""

    def reset(self) -> None:
        """Forget the last turn."""

    def mark(self, phase: int) -> None:
        """Begin phase number `phase`, or end it if it has begun."""

    def seconds(self) -> list[float]:
        """Time per phase; called after the turn, when the device is idle."""

    def verified(self) -> list[float]:
        """When each verification ended, in seconds after the first phase began; called as `seconds`."""


class HostPhaseTimer:
    """Phases by the host's clock, for devices on which the host itself computes."""

    def __init__(self, wall: Callable[[], float] = time.perf_counter) -> None:
        self._wall = wall
        self.reset()

    def reset(self) -> None:
        """Forget the last turn."""
        self._totals = [0.0] * len(PHASES)
        self._begin: float | None = None
        self._first: float | None = None
        self._verified: list[float] = []

    def mark(self, phase: int) -> None:
        """Begin or end a phase."""
        now = self._wall()
        if self._first is None:
            self._first = now
        if self._begin is None:
            self._begin = now
            return
        self._totals[phase] += now - self._begin
        self._begin = None
        if phase == _VERIFY:
            self._verified.append(now - self._first)

    def seconds(self) -> list[float]:
        """Time per phase."""
        return list(self._totals)

    def verified(self) -> list[float]:
        """When each verification ended."""
        return self._verified


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
        ends = [end for end in range(1, len(self._phases), 2) if self._phases[end] == _VERIFY]
        return [self._events[0].elapsed_time(self._events[end]) / 1000 for end in ends]
