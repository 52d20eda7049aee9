"""The course of a training run: a JSON line for every logged step, readable while the run goes on.

A line holds ``step``, ``seconds`` of training up to it, ``lr`` (of new modules), ``tokens_per_s`` (answer
tokens trained on since the previous line) and the figures of the method's loss, each the mean over the steps
since the previous line. A figure that is not finite is null. A resumed run continues at its checkpoint: later
lines are dropped, and the checkpoint holds the sums for the next line.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records.files import write_text

COURSE_FILE = "training.jsonl"
TOKENS = "tokens"
"""Name of the figure that is a count, the answer tokens of a step; all others are means."""
FRAME = ("step", "seconds", "lr", "tokens_per_s")
"""Keys of every line besides the figures."""
Line = dict[str, Any]
log = logging.getLogger(__name__)


class Course:
    """Writes the lines of one run.

    Args:
        folder: Folder of the run; receives `COURSE_FILE`.
        steps: Optimiser steps of the run.
        log_every: Steps between lines; the last step always has a line.
    """

    def __init__(self, folder: Path, steps: int, log_every: int) -> None:
        self._path, self._steps, self._log_every = folder / COURSE_FILE, steps, log_every
        self._sums: dict[str, float] = {}
        self._count = 0
        self._last: Line = {}
        self._start = self._last_seconds = 0.0

    def begin(self, step: int, state: Mapping[str, Any] | None = None) -> None:
        """Start the clock of a run.

        Args:
            step: Steps done according to the checkpoint, or 0; lines of later steps are dropped.
            state: The value of `state` at that step; None for a new run.

        Raises:
            UserError: If the file is damaged.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = read_lines(self._path) if self._path.is_file() else []
        kept = [line for line in lines if line["step"] <= step]
        write_text(self._path, "".join(map(_as_text, kept)))
        self._last = kept[-1] if kept else {}
        state = state or {"seconds": self._last.get("seconds", 0.0), "sums": {}, "count": 0}
        self._sums, self._count = dict(state["sums"]), state["count"]
        self._start = time.perf_counter() - state["seconds"]
        self._last_seconds = self._last.get("seconds", 0.0)

    def passed(self, step: int, lr: float, figures: Mapping[str, float]) -> dict[str, float] | None:
        """Add the figures of a step; returns the mean figures if this step completes a line, else None.

        Args:
            step: Steps done, this one included.
            lr: Learning rate of this step.
            figures: Figures of this step, including `TOKENS`.
        """
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if step % self._log_every and step != self._steps:
            return None
        self._write_line(step, lr)
        return self.figures

    @property
    def figures(self) -> dict[str, float]:
        """Figures of the last line; empty before the first."""
        return {name: value for name, value in self._last.items() if name not in FRAME}

    @property
    def state(self) -> dict[str, Any]:
        """For a checkpoint: the seconds so far, and the sums for the next line."""
        return {"seconds": self._seconds(), "sums": dict(self._sums), "count": self._count}

    def _seconds(self) -> float:
        return time.perf_counter() - self._start

    def _write_line(self, step: int, lr: float) -> None:
        seconds = self._seconds()
        speed = self._sums.pop(TOKENS) / max(seconds - self._last_seconds, 1e-9)
        means = {name: round(value / self._count, 4) for name, value in self._sums.items()}
        frame = {"step": step, "seconds": round(seconds, 3), "lr": lr, "tokens_per_s": round(speed, 1)}
        self._last, self._last_seconds = {**frame, **means}, seconds
        self._sums, self._count = {}, 0
        with self._path.open("a", encoding="utf-8") as file:  # closing the file flushes every line
            file.write(_as_text(self._last))
        log.info("step %d/%d %.0f s %.0f tok/s %s", step, self._steps, seconds, speed, means)


def read_course(folder: Path) -> list[Line]:
    """The lines of a run, in order; an incomplete last line is left out.

    Raises:
        UserError: If the folder holds none, or the file is damaged.
    """
    path = folder / COURSE_FILE
    if not path.is_file():
        raise UserError(
            f"{folder} holds no {COURSE_FILE}, so no training has logged a step there",
            "name the folder that python -m bench.train writes to (its out=...)",
        )
    return read_lines(path)


def read_lines(path: Path) -> list[Line]:
    """Every complete line of a file; null becomes NaN.

    Raises:
        UserError: If a line does not describe a step.
    """
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [_as_line(text, path, number) for number, text in enumerate(whole.splitlines(), start=1)]


def _as_line(text: bytes, path: Path, number: int) -> Line:
    try:
        line = {str(name): math.nan if value is None else value for name, value in json.loads(text).items()}
        line["step"] = int(line["step"])
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(
            f"line {number} of {path} is not a step of a training", "delete that line, or train anew"
        ) from error
    return line


def _as_text(line: Line) -> str:
    plain = {name: value if math.isfinite(value) else None for name, value in line.items()}
    return json.dumps(plain, allow_nan=False) + "\n"
