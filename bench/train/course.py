"""The course of a training run: every logged step as a line of JSON, to be read while it runs and ever after.

A line holds ``step``, ``seconds`` of training up to it, ``lr`` (of new modules), ``tokens_per_s`` (answer
tokens learned from, since the line before) and the figures of the method's loss, each the mean over the steps
since the line before. A figure that is not finite is null. A resumed run goes on where its checkpoint stands:
lines past it are dropped, sums that a line was being made of are kept.
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
"""The figure that is a count: answer tokens of a step."""
FRAME = ("step", "seconds", "lr", "tokens_per_s")
"""What every line holds beside the figures."""
Line = dict[str, Any]
log = logging.getLogger(__name__)


class Course:
    """Writes the lines of one run.

    Args:
        folder: Folder of the run; receives `COURSE_FILE`.
        steps: Optimiser steps of the run.
        log_every: Steps between lines; the last step has a line in any case.
    """

    def __init__(self, folder: Path, steps: int, log_every: int) -> None:
        self._path, self._steps, self._log_every = folder / COURSE_FILE, steps, log_every
        self._sums: dict[str, float] = {}
        self._count = 0
        self._last: Line = {}
        self._begun = self._told = 0.0

    def begin(self, step: int, state: Mapping[str, Any] | None = None) -> None:
        """Start the clock of a run that has `step` steps behind it.

        Args:
            step: Where its checkpoint stands, or 0: later lines are dropped.
            state: What `state` was at that step; None begins with nothing.

        Raises:
            UserError: If the file is damaged.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = read_lines(self._path) if self._path.is_file() else []
        kept = [line for line in lines if line["step"] <= step]
        write_text(self._path, "".join(map(_as_text, kept)))
        self._last = kept[-1] if kept else {}
        found = state or {"seconds": self._last.get("seconds", 0.0), "sums": {}, "count": 0}
        self._sums, self._count = dict(found["sums"]), found["count"]
        self._begun = time.perf_counter() - found["seconds"]
        self._told = self._last.get("seconds", 0.0)

    def passed(self, step: int, lr: float, figures: Mapping[str, float]) -> dict[str, float] | None:
        """Take the figures of a step; a line's mean figures if this step has a line, else None.

        Args:
            step: Steps that are done.
            lr: Rate of this step.
            figures: Of this step, `TOKENS` among them.
        """
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if step % self._log_every and step != self._steps:
            return None
        self._tell(step, lr)
        return self.figures

    @property
    def figures(self) -> dict[str, float]:
        """Figures of the last line; empty before the first."""
        return {name: value for name, value in self._last.items() if name not in FRAME}

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: seconds so far, and the sums of the line to come."""
        return {"seconds": self._seconds(), "sums": dict(self._sums), "count": self._count}

    def _seconds(self) -> float:
        return time.perf_counter() - self._begun

    def _tell(self, step: int, lr: float) -> None:
        seconds = self._seconds()
        speed = self._sums.pop(TOKENS) / max(seconds - self._told, 1e-9)
        means = {name: round(value / self._count, 4) for name, value in self._sums.items()}
        frame = {"step": step, "seconds": round(seconds, 3), "lr": lr, "tokens_per_s": round(speed, 1)}
        self._last, self._told = {**frame, **means}, seconds
        self._sums, self._count = {}, 0
        with self._path.open("a", encoding="utf-8") as file:  # closed, and so flushed, line by line
            file.write(_as_text(self._last))
        log.info("step %d/%d %.0f s %.0f tok/s %s", step, self._steps, seconds, speed, means)


def read_course(folder: Path) -> list[Line]:
    """The lines of a run, in order; a line that is just being written is left out.

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
    """Every whole line of a file; null becomes NaN.

    Raises:
        UserError: If a line is not a step's.
    """
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [_as_line(text, path, number) for number, text in enumerate(whole.splitlines(), start=1)]


def _as_line(text: str, path: Path, number: int) -> Line:
    try:
        found = json.loads(text)
        line = {str(name): math.nan if value is None else value for name, value in found.items()}
        line["step"] = int(line["step"])
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"line {number} of {path} is not a step of a training", "delete that line, or train anew"
        ) from error
    return line


def _as_text(line: Line) -> str:
    plain = {name: value if math.isfinite(value) else None for name, value in line.items()}
    return json.dumps(plain, allow_nan=False) + "\n"
