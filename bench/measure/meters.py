"""What is measured around a turn: wall time by phase, CPU time, peak memory, energy.

CUDA is used only if the device is CUDA. A turn is timed between two synchronisations; phases are timed
between events on the current stream, which are read after the turn. Besides these two, only
`TurnClock.first_token` synchronises, once.
"""

import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Protocol

import torch

from bench.measure.event_timer import Event, EventPhaseTimer
from bench.measure.nvml import NvmlDevice, nvml_device
from bench.records.model import PHASES, PhaseName, Timing

VERIFY = PHASES.index("verify")


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
        if phase == VERIFY:
            self._verified.append(now - self._first)

    def seconds(self) -> list[float]:
        """Time per phase."""
        return list(self._totals)

    def verified(self) -> list[float]:
        """When each verification ended."""
        return self._verified


class _Phase:
    """The context of one phase, made once per clock, so that entering it creates no object."""

    __slots__ = ("_clock", "_number")

    def __init__(self, clock: "TurnClock", number: int) -> None:
        self._clock = clock
        self._number = number

    def __enter__(self) -> None:
        self._clock._enter(self._number)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._clock._leave(self._number)


class TurnClock:
    """Times one turn after another; implements `methods.core.base.Clock`.

    ::

        with clock:
            generation = method.generate(prompt_ids, budget, sampler, clock)
        timing = clock.timing()

    Args:
        phases: Reads phases; None times only the turn, which shows what reading phases costs.
        synchronize: Waits for the device.
        wall: Seconds of a monotonic clock.
        cpu: CPU seconds of this thread. The decoding thread takes part in every parallel kernel, so wall/CPU
            is about 1 for any number of threads and rises when other work takes the cores. It needs waiting
            threads to sleep (``OMP_WAIT_POLICY=PASSIVE``) and says nothing on CUDA, where the host spins.
    """

    def __init__(
        self,
        phases: PhaseTimer | None,
        synchronize: Callable[[], None],
        wall: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._phases = phases
        self._synchronize = synchronize
        self._wall = wall
        self._cpu = cpu
        self._contexts: Mapping[str, _Phase] = {name: _Phase(self, i) for i, name in enumerate(PHASES)}
        self._open: int | None = None
        self._start_s = self._start_cpu_s = self._cpu_s = 0.0
        self._first_s: float | None = None
        self._end_s: float | None = None

    def __enter__(self) -> None:
        if self._phases is not None:
            self._phases.reset()
        self._open = self._first_s = self._end_s = None
        self._synchronize()
        self._start_cpu_s = self._cpu()
        self._start_s = self._wall()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return  # a failed turn has no time, and waiting for a broken device would hide its error
        self._synchronize()
        self._end_s = self._wall()
        self._cpu_s = self._cpu() - self._start_cpu_s

    def phase(self, name: PhaseName) -> AbstractContextManager[None]:
        """Time inside the ``with`` block belongs to `name`.

        Raises:
            RuntimeError: On entering, if a phase is open or `first_token` was not called yet.
        """
        return self._contexts[name]

    def first_token(self) -> None:
        """Mark the end of the prefill: its token is known and decoding starts. Waits for the device.

        Raises:
            RuntimeError: If called twice in a turn or inside a phase.
        """
        if self._first_s is not None or self._open is not None:
            raise RuntimeError("clock.first_token() must be called once per turn, outside every phase")
        self._synchronize()
        self._first_s = self._wall()

    def timing(self) -> Timing:
        """Where the last turn's time went.

        Raises:
            RuntimeError: If no turn has ended, or the method never called `first_token`.
        """
        if self._end_s is None:
            raise RuntimeError("no turn has ended: time it with 'with clock:'")
        if self._first_s is None:
            raise RuntimeError("the method must call clock.first_token() after its prefill")
        seconds = self._phases.seconds() if self._phases is not None else []
        verified = self._phases.verified() if self._phases is not None else []
        return Timing(
            prefill_s=self._first_s - self._start_s,
            decode_s=self._end_s - self._first_s,
            phases_s=dict(zip(PHASES, seconds, strict=False)),
            cpu_s=self._cpu_s,
            rounds_s=array(
                "d", (round(end - begin, 7) for begin, end in zip([0.0, *verified], verified, strict=False))
            ),
        )

    def _enter(self, number: int) -> None:
        if self._open is not None or self._first_s is None:
            is_early = self._first_s is None
            why = "the first token is not out" if is_early else f"{PHASES[self._open or 0]} is open"
            raise RuntimeError(f"phase {PHASES[number]} must not start: {why}")
        self._open = number
        if self._phases is not None:
            self._phases.mark(number)

    def _leave(self, number: int) -> None:
        if self._phases is not None:
            self._phases.mark(number)
        self._open = None


def turn_clock(device: torch.device, *, has_phases: bool = True) -> TurnClock:
    """A clock for this device.

    Args:
        device: Where the model decodes.
        has_phases: Whether phases are read; without them `Timing.phases_s` is empty.
    """
    wait = synchronizer(device)
    if device.type != "cuda":
        return TurnClock(HostPhaseTimer() if has_phases else None, wait)
    return TurnClock(EventPhaseTimer(_cuda_event) if has_phases else None, wait)


def synchronizer(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device has finished all its work."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else _nothing


def _cuda_event() -> Event:
    event: Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return event


def _nothing() -> None:
    """On the host there is nothing to wait for: its kernels return when they are done."""


class MemoryMeter:
    """Peak memory that PyTorch had allocated on the GPUs of a model, weights included, summed over them.

    None on a CPU: the process's peak resident size (`ru_maxrss`) never falls, so all arms would share the
    highest peak.
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._gpus = [device for device in devices if device.type == "cuda"]

    def reset(self) -> None:
        """Start a new peak, as between two arms."""
        for gpu in self._gpus:
            torch.cuda.reset_peak_memory_stats(gpu)

    def peak_bytes(self) -> int | None:
        """Highest allocation since `reset`, in bytes."""
        return sum(map(torch.cuda.max_memory_allocated, self._gpus)) if self._gpus else None

    def peak_reserved_bytes(self) -> int | None:
        """Most that PyTorch's allocator held since `reset`, in bytes: what other programs cannot have."""
        return sum(map(torch.cuda.max_memory_reserved, self._gpus)) if self._gpus else None


class EnergyMeter:
    """Energy a GPU has used, by NVML's counter; None on a CPU or without nvidia-ml-py.

    The counter moves every 20 to 100 ms and counts the whole GPU: take differences over runs, not rounds.
    """

    def __init__(self, device: NvmlDevice | None) -> None:
        self._device = device
        self._begin_j: float | None = None

    def start(self) -> None:
        """Begin to count."""
        self._begin_j = self._read()

    def joules(self) -> float | None:
        """Energy since `start`; None where it cannot be measured."""
        now = self._read()
        return None if now is None or self._begin_j is None else now - self._begin_j

    def _read(self) -> float | None:
        return None if self._device is None else self._device.energy_j()


def energy_meter(devices: Sequence[torch.device]) -> EnergyMeter:
    """A meter for the GPU that a model lies on; of several GPUs nothing is measured."""
    home = devices[0]
    return EnergyMeter(nvml_device(home)[0] if home.type == "cuda" and len(devices) == 1 else None)
