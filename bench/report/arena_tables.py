"""What the leaderboard shows of a run of several methods only: pairs, waits, settings, the machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd

from bench.metrics.arena import by_session
from bench.metrics.run_figures import speedup
from bench.report import curves
from bench.report.board import Section
from bench.report.figure_data import latencies
from bench.report.style import Picture
from bench.report.tables import Table
from bench.report.words import place_words
from bench.show.arena_table import contest_lines, pair_rows, wait_rows

RANKS_NOTE = (
    "All methods and two equal baselines answered every question in one run, in an order that changes from "
    "question to question. A rank is one more than the number of methods that are faster for certain: by "
    "paired differences on the same questions, Holm-corrected over all pairs."
)
APART_NOTE = (
    "Measured apart: every method in a run of its own, at another time and with another baseline run, so "
    "differences between methods also hold the machine's drift. Ranks by overlapping intervals."
)
_LONGEST_VALUE = 100
"""Characters of a setting's list that are shown."""


def arena_remarks(section: Section) -> Iterator[str]:
    """What a reader must know before the ranks."""
    if not section.arena:
        if len(section.ranked) > 1:
            yield APART_NOTE
        return
    yield RANKS_NOTE
    for line in contest_lines(section.contests[0]):
        yield f"{line[0].upper()}{line[1:].removesuffix('.')}."


def arena_pictures(section: Section) -> list[Picture]:
    """The baseline's speed over time, where the records hold it."""
    if not section.arena or section.contests[0].moved is None:
        return []
    moved = section.contests[0].moved
    hours = (moved.started_s - moved.started_s[0]) / 3600
    frame = pd.DataFrame({"hours": hours, "tokens_per_s": moved.tokens_per_s, "running": moved.running})
    caption = (
        "Speed of the two equal baselines over the run, each dot an answer, the line a running median: "
        "how steady the machine was."
    )
    return [Picture("machine", caption, partial(curves.speed_over_time, frame), place_words(section))]


def pair_tables(section: Section) -> Iterator[Table]:
    """Every method over every other, with intervals; none for runs of single methods."""
    pairs = section.contests[0].pairs if section.contests else None
    if pairs is None:
        return
    title = "Faster by: the row's method over the column's, geometric mean of questions, with 95 % intervals"
    yield Table(title, ("method", *pairs.names), tuple(pair_rows(pairs, speedup)), "pairwise")


def session_tables(section: Section) -> Iterator[Table]:
    """The speedup of every method in each session alone; none where there is one session."""
    if section.sessions < 2 or not section.contests:
        return
    parts = {label: own for contest in section.contests for label, own in by_session(contest.costs).items()}
    rows = [
        (label, *map(speedup, parts[entry.stored[0].label]))
        for label, entry in section.labelled.items()
        if entry.stored[0].label in parts
    ]
    header = ("method", *(f"session {number + 1}" for number in range(section.sessions)))
    title = "Decode speedup in each session alone, with 95 % intervals over questions"
    yield Table(title, header, tuple(rows), "sessions")


def wait_table(section: Section) -> Table:
    """Percentiles of the waits, plain decoding first."""
    rows = wait_rows(latencies(section))
    header = ("method", "first token", "per token of an answer", "per round")
    return Table("Waits in milliseconds: 50th, 90th and 99th percentile", header, tuple(rows), "latency")


def settings_table(section: Section) -> Table:
    """What every method was set to."""
    rows = [
        (
            label,
            ", ".join(f"{key}={_short(value)}" for key, value in entry.params.items() if value is not None)
            or "none",
        )
        for label, entry in section.labelled.items()
    ]
    return Table("Settings of each method", ("method", "settings"), tuple(rows), "settings")


def _short(value: object) -> str:
    """A setting as text; a long list by its length."""
    text = str(value).replace(" ", "")
    return f"{len(value)} entries" if isinstance(value, list) and len(text) > _LONGEST_VALUE else text
