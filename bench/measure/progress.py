"""What a person sees while a run measures: a bar with arm, question and time left, and the speeds so far."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from bench.records.model import Arm, Sample
from bench.show.layout import text_table
from bench.show.waiting import Wait

TABLE_EVERY_S = 60.0
"""Seconds between two tables of the speeds so far."""


class Progress:
    """The progress bar of one start, counted in answers; a line a minute where stderr is no terminal.

    Args:
        answers: How many are still to be measured.
    """

    def __init__(self, answers: int) -> None:
        self._bar = Wait("measuring", answers, "answer")
        self._figures = LiveFigures()
        self._shown_at = time.monotonic()

    def begin(self, label: str, prompt_id: str) -> None:
        """An arm begins to decode a question."""
        self._bar.tell(", ".join([f"{label} on {prompt_id}", *self._figures.words()]))

    def decoded(self) -> None:
        """The arm has its answer, which is judged and stored together with those of the other arms."""
        self._bar.add()

    def stored(self, sample: Sample) -> None:
        """A sample is on disk."""
        self._figures.add(sample)
        if self._bar.is_shown and time.monotonic() - self._shown_at > TABLE_EVERY_S:
            self._shown_at = time.monotonic()
            self._bar.write("\n".join(self._figures.table()))

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)


class LiveFigures:
    """Speed and acceptance length of every arm since this start."""

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._rounds: dict[str, int] = {}
        self._failed = 0

    def add(self, sample: Sample) -> None:
        """Count a sample."""
        if sample.timing is None:
            self._failed += 1
            return
        label = sample.label
        self._tokens[label] = self._tokens.get(label, 0) + len(sample.ids) - 1
        self._seconds[label] = self._seconds.get(label, 0.0) + sample.timing.decode_s
        self._rounds[label] = self._rounds.get(label, 0) + len(sample.rounds)

    def words(self) -> list[str]:
        """Such as ``baseline 310 tok/s`` and ``2 failed``."""
        speed = self._speed(Arm.BASELINE.value)
        parts = [] if speed is None else [f"baseline {speed:.0f} tok/s"]
        return [*parts, *([f"{self._failed} failed"] if self._failed else [])]

    def table(self) -> list[str]:
        """One line per arm, fastest first; intervals are left to the end of the run."""
        speeds = {label: speed for label in self._tokens if (speed := self._speed(label)) is not None}
        baseline = speeds.get(Arm.BASELINE.value)
        rows = [("so far", "tokens/s", "speedup", "tokens/round")]
        for label, speed in sorted(speeds.items(), key=lambda item: -item[1]):
            ratio = "-" if baseline is None else f"{speed / baseline:.2f}x"
            rounds = self._rounds[label]
            length = f"{self._tokens[label] / rounds:.2f}" if rounds else "-"
            rows.append((label, f"{speed:.1f}", ratio, length))
        return text_table(rows)

    def _speed(self, label: str) -> float | None:
        seconds = self._seconds.get(label)
        return self._tokens[label] / seconds if seconds else None
