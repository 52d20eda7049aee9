"""A run as it is shown once it is on disk: its table, and its lines in the table that ends a sweep.

The run itself prints this at its end, and ``python -m bench.report show RUN`` prints it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.metrics.arena import Arena, arena_figures
from bench.metrics.run_figures import Summary, number, speedup
from bench.metrics.summary import summarise
from bench.prove.certificates import badge_of
from bench.records.model import Run, Sample
from bench.records.views import of_method
from bench.show.alarms import Alarm, arena_alarms, run_alarms
from bench.show.arena_table import arena_table, output_words
from bench.show.length_table import length_block
from bench.show.table import run_table

SweepRow = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """A run as text.

    Args:
        table: The run's own table.
        rows: Its lines in the table of a sweep, one per method: the cells of `bench.show.sweep.HEADER`.
    """

    table: str
    rows: tuple[SweepRow, ...]


def result_of(run: Run, samples: Sequence[Sample], results_dir: Path, level: float | None = None) -> Result:
    """All figures of a run as text.

    Args:
        run, samples: The run and its samples, of every arm.
        results_dir: Where certificates lie.
        level: Confidence level of the intervals; None for the one that the run was configured with.
    """
    level = _level(run.config) if level is None else level
    lengths = length_block(run, samples, level)
    if not run.methods:
        summary = summarise(run, samples, level=level, evidence=badge_of(run, results_dir))
        return Result(run_table(summary) + lengths, (_row(run, run.method, summary, run_alarms(summary)),))
    badges = {label: badge_of(of_method(run, label), results_dir) for label in run.methods}
    arena = arena_figures(run, samples, level=level, evidence=badges)
    return Result(arena_table(arena) + lengths, _arena_rows(arena))


def _level(config: Mapping[str, Any]) -> float:
    measure = config.get("measure") or {}
    return float(measure.get("level", 0.95))


def _arena_rows(arena: Arena) -> tuple[SweepRow, ...]:
    alarms = arena_alarms(arena.lossless, arena.methods)
    return tuple(_row(arena.run, label, summary, alarms) for label, summary in arena.methods.items())


def _row(run: Run, label: str, summary: Summary, alarms: Sequence[Alarm]) -> SweepRow:
    length = "given" if summary.is_cost_only else number(summary.acceptance.pooled)
    names = ", ".join(dict.fromkeys(alarm.name for alarm in alarms)) or "none"
    speed = speedup(summary.speedup.decode)
    return (label, run.task, run.model, speed, length, output_words(summary), names)
