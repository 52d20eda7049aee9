"""What a person sees while a command prepares or computes: a line within a second, a bar for a longer wait.

All of it goes to stderr: stdout holds results. Where stderr is no terminal, a bar is a line a minute.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

LINE_EVERY_S = 60.0
"""Seconds between two lines of a wait whose bar nobody sees."""


def announce(text: str) -> None:
    """Print one line about what comes next, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Wait:
    """A wait of known length: a bar on a terminal, elsewhere a line a minute that says what is left.

    Args:
        what: What is done, such as ``sampling controls``.
        total: How many steps there are.
        unit: What a step is.
    """

    def __init__(self, what: str, total: float, unit: str = "step") -> None:
        self._what, self._total, self._unit = what, total, unit
        self._bar = tqdm(total=total, desc=what, unit=unit, disable=None, mininterval=0.5)
        self._done, self._began, self._shown = 0.0, time.monotonic(), time.monotonic()

    def begin(self, name: str) -> None:
        """Say which step comes next."""
        self._bar.set_postfix_str(name)

    def add(self, steps: float = 1) -> None:
        """Some steps are done."""
        self._done += steps
        self._bar.update(steps)
        if self._bar.disable and time.monotonic() - self._shown >= LINE_EVERY_S:
            self._shown = time.monotonic()
            announce(self.line())

    def line(self) -> str:
        """Such as ``training: 300 of 1200 steps, about 6 min left``."""
        spent = time.monotonic() - self._began
        left = spent * (self._total - self._done) / self._done if self._done else None
        rest = "" if left is None else f", about {left / 60:.0f} min left"
        return f"{self._what}: {self._done:g} of {self._total:g} {self._unit}s{rest}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
