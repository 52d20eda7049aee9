"""Turn timing on fake clocks: where time is booked, when the device is waited for, what misuse is refused."""

from collections.abc import Callable
from types import ModuleType
from typing import Self

import pytest
import torch

from bench.measure.meters import (
    EnergyMeter,
    EventPhaseTimer,
    HostPhaseTimer,
    MemoryMeter,
    PhaseTimer,
    TurnClock,
    turn_clock,
)
from bench.measure.nvml import NvmlDevice
from methods.core.base import Clock

CPU = torch.device("cpu")


class Time:
    """A clock that moves only by hand; a device that lags behind the host by `queued`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.queued = 0.0
        self.syncs = 0

    def __call__(self) -> float:
        return self.now

    def synchronize(self) -> None:
        self.syncs += 1
        self.now += self.queued
        self.queued = 0.0


class FakeEvent:
    """An event that notes when the device's queue gets to it."""

    made = 0

    def __init__(self, time: Time) -> None:
        FakeEvent.made += 1
        self._time = time
        self.at = 0.0

    def record(self) -> None:
        self.at = self._time.now + self._time.queued

    def elapsed_time(self, end_event: Self) -> float:
        return (end_event.at - self.at) * 1000


def host_clock(time: Time) -> TurnClock:
    return TurnClock(HostPhaseTimer(time), time.synchronize, wall=time, cpu=lambda: time.now / 2)


def device_clock(time: Time, pool: int) -> TurnClock:
    return TurnClock(EventPhaseTimer(lambda: FakeEvent(time), pool), time.synchronize, wall=time, cpu=time)


def decode_on_host(clock: Clock, time: Time) -> None:
    """Prefill 3 s, then two rounds of draft 1, host 0.5, verify 2."""
    time.now += 3
    clock.first_token()
    for _ in range(2):
        with clock.phase("draft"):
            time.now += 1
        time.now += 0.5
        with clock.phase("verify"):
            time.now += 2


def decode_on_device(clock: Clock, time: Time, rounds: int = 2) -> None:
    """The same times, spent by the device while the host only enqueues."""
    time.queued += 3
    clock.first_token()
    for _ in range(rounds):
        with clock.phase("draft"):
            time.queued += 1
        time.queued += 0.5
        with clock.phase("verify"):
            time.queued += 2


def fail_inside_a_phase(clock: TurnClock) -> None:
    with clock:
        clock.first_token()
        with clock.phase("draft"):
            raise ZeroDivisionError


def test_time_is_booked_to_prefill_phases_and_host() -> None:
    time = Time()
    clock = host_clock(time)
    with clock:
        decode_on_host(clock, time)
    timing = clock.timing()
    assert (timing.prefill_s, timing.decode_s, timing.cpu_s) == (3, 7, 5)
    assert timing.phases_s == {"draft": 2, "verify": 4, "commit": 0, "search": 0}
    assert timing.host_s == 1


def test_device_phases_are_read_from_events_and_only_the_turns_borders_wait() -> None:
    time = Time()
    clock = device_clock(time, pool=8)
    with clock:
        decode_on_device(clock, time)
    assert time.syncs == 3  # start, first token, end
    timing = clock.timing()
    assert (timing.prefill_s, timing.decode_s) == (3, 7)
    assert timing.phases_s == pytest.approx({"draft": 2, "verify": 4, "commit": 0, "search": 0})


def test_events_are_used_again_and_the_pool_grows_only_when_it_must() -> None:
    time = Time()
    before = FakeEvent.made
    clock = device_clock(time, pool=8)
    for _ in range(3):
        with clock:
            decode_on_device(clock, time)
    assert FakeEvent.made - before == 8
    with clock:
        decode_on_device(clock, time, rounds=3)
    assert FakeEvent.made - before == 12
    assert clock.timing().phases_s["verify"] == pytest.approx(6)


@pytest.mark.parametrize("make", [host_clock, lambda time: device_clock(time, 8)], ids=["host", "device"])
def test_a_turn_starts_from_nothing_even_after_a_failed_one(make: Callable[[Time], TurnClock]) -> None:
    time = Time()
    clock = make(time)
    with pytest.raises(ZeroDivisionError):
        fail_inside_a_phase(clock)
    with pytest.raises(RuntimeError, match="no turn has ended"):
        clock.timing()
    with clock:
        clock.first_token()
        with clock.phase("verify"):
            time.now += 1
    assert clock.timing().phases_s == pytest.approx({"draft": 0, "verify": 1, "commit": 0, "search": 0})


def test_a_failed_turn_does_not_wait_for_the_device() -> None:
    time = Time()
    clock = device_clock(time, pool=2)
    with pytest.raises(ZeroDivisionError), clock:
        raise ZeroDivisionError
    assert time.syncs == 1


def test_without_phases_the_turn_is_timed_all_the_same() -> None:
    time = Time()
    clock = TurnClock(None, time.synchronize, wall=time, cpu=time)
    with clock:
        decode_on_host(clock, time)
    assert clock.timing().phases_s == {}
    assert clock.timing().host_s == clock.timing().decode_s == 7


def test_phases_must_not_nest() -> None:
    time = Time()
    clock = host_clock(time)
    with clock:
        clock.first_token()
        with (
            clock.phase("draft"),
            pytest.raises(RuntimeError, match="phase verify must not start: draft is open"),
            clock.phase("verify"),
        ):
            pass


def test_the_prefill_has_no_phases() -> None:
    clock = host_clock(Time())
    refusal = pytest.raises(RuntimeError, match="phase draft must not start: the first token is not out")
    with clock, refusal, clock.phase("draft"):
        pass


def test_the_first_token_comes_once_and_outside_phases() -> None:
    clock = host_clock(Time())
    with clock:
        clock.first_token()
        with pytest.raises(RuntimeError, match="once per turn"):
            clock.first_token()


def test_a_method_that_never_reports_its_first_token_is_told() -> None:
    clock = host_clock(Time())
    with clock:
        pass
    with pytest.raises(RuntimeError, match=r"must call clock\.first_token"):
        clock.timing()


def test_an_unknown_phase_is_refused() -> None:
    with pytest.raises(KeyError):
        host_clock(Time()).phase("think")  # type: ignore[arg-type]


@pytest.mark.parametrize("has_phases", [True, False])
def test_the_clock_of_a_cpu_reads_real_time(has_phases: bool) -> None:
    clock = turn_clock(CPU, has_phases=has_phases)
    with clock:
        clock.first_token()
        with clock.phase("verify"):
            sum(range(20_000))
    timing = clock.timing()
    assert timing.decode_s >= sum(timing.phases_s.values())
    assert timing.decode_s > 0
    assert ("verify" in timing.phases_s) is has_phases


def test_phase_timers_forget_the_last_turn() -> None:
    time = Time()
    timers: list[PhaseTimer] = [HostPhaseTimer(time), EventPhaseTimer(lambda: FakeEvent(time), 2)]
    for timer in timers:
        timer.mark(0)
        time.now += 1
        timer.mark(0)
        assert timer.seconds() == pytest.approx([1, 0, 0, 0])
        timer.reset()
        assert timer.seconds() == [0, 0, 0, 0]


def test_a_cpu_has_no_peak_memory_and_no_energy() -> None:
    memory, energy = MemoryMeter([CPU]), EnergyMeter(None)
    memory.reset()
    energy.start()
    assert memory.peak_bytes() is None
    assert energy.joules() is None


def test_energy_is_the_difference_of_the_counter() -> None:
    readings = iter([1_000_000, 1_250_000])
    library = ModuleType("pynvml")
    library.__dict__["nvmlDeviceGetTotalEnergyConsumption"] = lambda handle: next(readings)
    meter = EnergyMeter(NvmlDevice(library, "handle"))
    meter.start()
    assert meter.joules() == 250


@pytest.mark.gpu
def test_a_gpus_phases_add_up_to_at_most_the_turn() -> None:
    device = torch.device("cuda")
    rows = torch.randn(2048, 2048, device=device)
    clock, memory = turn_clock(device), MemoryMeter([device])
    memory.reset()
    with clock:
        clock.first_token()
        for _ in range(20):
            with clock.phase("verify"):
                rows @ rows
    timing = clock.timing()
    assert 0 < timing.phases_s["verify"] <= timing.decode_s * 1.01
    assert (memory.peak_bytes() or 0) >= rows.numel() * 4
