"""What a person sees while a command prepares or computes: a line at once, a bar for a longer wait.

All of it goes to stderr: stdout holds results. Where stderr is no terminal, a bar is a line a minute.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

Item = TypeVar("Item")
LINE_EVERY_S = 60.0
"""Seconds between two lines of a wait whose bar nobody sees."""


def announce(text: str) -> None:
    """Print one line about what comes next, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Wait:
    """A wait of known length: a bar on a terminal, elsewhere a line a minute that says what is left.

    Log lines inside go above the bar.

    Args:
        what: What is done, such as ``controls``.
        total: How many steps there are.
        unit: What a step is.
        done: Steps that an earlier start has done.
    """

    def __init__(self, what: str, total: int, unit: str = "step", done: int = 0) -> None:
        self._what, self._total, self._unit, self._before = what, total, unit, done
        self._bar = tqdm(total=total, initial=done, desc=what, unit=unit, disable=None, mininterval=0.5)
        self._done, self._began = done, time.monotonic()
        self._shown = self._began
        self._inside = ExitStack()

    @property
    def is_shown(self) -> bool:
        """Whether there is a bar."""
        return not self._bar.disable

    def tell(self, text: str) -> None:
        """Say after the bar what is being done, or what has come of it."""
        self._bar.set_postfix_str(text)

    def write(self, text: str) -> None:
        """Print lines above the bar."""
        self._bar.write(text, file=sys.stderr)

    def add(self, steps: int = 1) -> None:
        """Some steps are done."""
        self._done += steps
        self._bar.update(steps)
        if not self.is_shown and time.monotonic() - self._shown >= LINE_EVERY_S:
            self._shown = time.monotonic()
            announce(self.line())

    def line(self) -> str:
        """Such as ``training: 300 of 1200 steps, about 6 min left``."""
        here = self._done - self._before
        left = (time.monotonic() - self._began) * (self._total - self._done) / here if here else None
        rest = "" if left is None else f", about {left / 60:.0f} min left"
        return f"{self._what}: {self._done} of {self._total} {self._unit}s{rest}"

    def __enter__(self) -> Self:
        if self.is_shown:
            self._inside.enter_context(logging_redirect_tqdm())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._inside.close()


def waited(items: Sequence[Item], what: str, unit: str) -> Iterator[Item]:
    """The items one by one, with a bar that counts those that were dealt with."""
    with Wait(what, len(items), unit) as wait:
        for item in items:
            yield item
            wait.add()


class Loading:
    """Something that takes a while and says nothing of how far it is: the seconds so far, or a line a minute.

    Args:
        what: What is loaded, with its size.
    """

    def __init__(self, what: str) -> None:
        self._what, self._ended = what, threading.Event()
        self._is_terminal = sys.stderr.isatty()
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401 - nothing is done about it
        self._ended.set()
        self._thread.join()

    def _count(self) -> None:
        began, every_s = time.monotonic(), 1.0 if self._is_terminal else LINE_EVERY_S
        while not self._ended.wait(every_s):
            text = f"loading {self._what}: {time.monotonic() - began:.0f} s"
            sys.stderr.write(f"\r{text} " if self._is_terminal else f"{text}\n")
            sys.stderr.flush()
        if self._is_terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
