"""Faults as small objects that a process installs into itself: where it is hit, and by what.

A place is counted, not timed, so a seed names the same place on every machine: the n-th line of our code that
deals with records, the k-th byte of the n-th write, the n-th target pass.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import bench.measure.environment
import bench.measure.runner
import bench.measure.verdicts
import bench.records.codec
import bench.records.files
import bench.records.store
from bench.compose.settings import Settings
from bench.measure.meters import TurnClock
from bench.tasks.task import LoadedTask
from methods.early_exit.layerskip import LayerSkip

Harm = Callable[[], None]

TRACED = frozenset(
    str(module.__file__)
    for module in (bench.measure.runner, bench.records.store, bench.records.files, bench.records.codec)
)
"""The files whose lines are places."""


@dataclass(frozen=True)
class AtLine:
    """A signal before the n-th line of `TRACED` that is executed."""

    line: int
    number: int

    def __call__(self) -> None:
        trace_lines(self._hit)

    def _hit(self, line: int) -> None:
        if line == self.line:
            os.kill(os.getpid(), self.number)


@dataclass(frozen=True)
class CountLines:
    """No harm: the number of lines in a run, written to a file as it ends."""

    file: Path

    def __call__(self) -> None:
        last = 0

        def seen(line: int) -> None:
            nonlocal last
            last = line

        trace_lines(seen)
        close = bench.records.store.RunStore.close

        def closed(store: bench.records.store.RunStore) -> None:
            close(store)
            self.file.write_text(str(last))

        patch(bench.records.store.RunStore, "close", closed)


def trace_lines(seen: Callable[[int], None]) -> None:
    """Call `seen` with 1, 2, .. before every line of `TRACED` that a run executes.

    Tracing begins with the run: all that a command does before takes twice as long when it is traced.
    """
    numbers, execute = count(1), bench.measure.runner.execute

    def line(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            seen(next(numbers))
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        return line if frame.f_code.co_filename in TRACED else None

    def traced(
        settings: Settings, session: int | None = None, task: LoadedTask | None = None
    ) -> bench.measure.finished.Outcome:
        sys.settrace(call)
        return execute(settings, session, task)

    patch(bench.measure.runner, "execute", traced)


@dataclass(frozen=True)
class InWrite:
    """A signal when a share of the n-th sample's line is on its way to the disk."""

    write: int
    share: float
    number: int

    def __call__(self) -> None:
        real, numbers = os.write, count(1)

        def torn(file: int, data: Any) -> int:
            if not isinstance(data, memoryview) or next(numbers) != self.write:
                return real(file, data)
            written = real(file, data[: int(len(data) * self.share)])
            os.kill(os.getpid(), self.number)
            return written

        patch(os, "write", torn)


@dataclass(frozen=True)
class InPass:
    """An exception inside the method, in its n-th target pass and from then on, or once."""

    target_pass: int
    error: Exception
    is_lasting: bool = False

    def __call__(self) -> None:
        fail_at(LayerSkip, "verify", self.target_pass, self.error, is_lasting=self.is_lasting)


@dataclass(frozen=True)
class InJudging:
    """An exception while the harness teacher-forces the n-th output through the target."""

    output: int
    error: Exception

    def __call__(self) -> None:
        fail_at(bench.measure.verdicts, "judge", self.output, self.error, is_lasting=False)


def out_of_memory() -> Exception:
    """What torch raises on a full GPU."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (simulated)")


@dataclass(frozen=True)
class FullDisk:
    """No file grows beyond so many bytes: the kernel refuses, in mid-line too."""

    size: int

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


@dataclass(frozen=True)
class FillDisk:
    """Something else takes all that is left of the disk as the n-th sample is about to be written."""

    write: int
    filler: Path

    def __call__(self) -> None:
        real, numbers = os.write, count(1)

        def crowded(file: int, data: Any) -> int:
            if isinstance(data, memoryview) and next(numbers) == self.write:
                fill(self.filler)
            return real(file, data)

        patch(os, "write", crowded)


def fill(filler: Path) -> None:
    """Write zeros until the disk takes no more."""
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass


@dataclass(frozen=True)
class OtherDevice:
    """The run starts on another machine."""

    name: str

    def __call__(self) -> None:
        patch(bench.measure.environment, "device_name", lambda device: self.name)


@dataclass(frozen=True)
class WallClockBack:
    """The wall clock is set back by an hour at every look."""

    def __call__(self) -> None:
        real, hours = time.time, count(1)

        class Past(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Past:
                return super().now(tz) - timedelta(hours=next(hours))

        patch(time, "time", lambda: real() - 3600 * next(hours))
        patch(bench.measure.environment, "datetime", Past)


@dataclass(frozen=True)
class TimerBack:
    """The timer, which never should, jumps back inside the n-th turn that is timed."""

    turn: int

    def __call__(self) -> None:
        turns, enter = count(1), TurnClock.__enter__

        def entered(clock: TurnClock) -> None:
            enter(clock)
            clock._start_s += 3600 * (next(turns) == self.turn)

        patch(TurnClock, "__enter__", entered)


def fail_at(owner: Any, name: str, call: int, error: Exception, *, is_lasting: bool) -> None:
    """Raise `error` in the n-th call of a function, or from then on."""
    real, numbers = getattr(owner, name), count(1)

    def failing(*arguments: Any) -> Any:
        number = next(numbers)
        if number == call or (is_lasting and number > call):
            raise error
        return real(*arguments)

    patch(owner, name, failing)


def patch(owner: Any, name: str, value: Any) -> None:
    """Replace an attribute for good: the process is about to end."""
    setattr(owner, name, value)
