"""Tidy frames for `bench.report.figures`, from the entries of a section."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from bench.metrics import PHASES
from bench.records import Arm, Sample
from bench.report import figures
from bench.report.board import Ranked, Section

MOST_METHODS = 12
"""More rows than this no figure can tell apart; the fastest are drawn and the caption says so."""
LEAST_ROUNDS = 20
BASELINE = "autoregressive"


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure on its page.

    Args:
        name: Part of its file name.
        caption: One sentence on what it shows and how to read it.
        figure: The drawing.
    """

    name: str
    caption: str
    figure: Figure


def pictures(section: Section) -> list[Picture]:
    """The figures that a section has data for."""
    shown = sorted(section.ranked, key=lambda one: -_estimate(one))[:MOST_METHODS]
    less = (
        f" The {MOST_METHODS} fastest of {len(section.ranked)}." if len(section.ranked) > MOST_METHODS else ""
    )
    drawn: list[tuple[str, str, pd.DataFrame, Callable[[pd.DataFrame], Figure]]] = [
        (
            "speedup",
            "Decode speedup by subtask with its 95 % interval; left of the dashed line a method loses time.",
            speedups(shown, section.subtasks),
            figures.speedup_by_subtask,
        ),
        (
            "acceptance",
            "Acceptance length against speedup; on a dotted line, that share of it turns into speed.",
            acceptance(shown),
            figures.acceptance_against_speedup,
        ),
        (
            "time",
            f"Where the time of a round goes; a round of {BASELINE} decoding is one token.",
            round_times(shown),
            figures.time_per_round,
        ),
        (
            "positions",
            "Acceptance of each drafted token given that all before it were accepted; positions that fewer "
            f"than {LEAST_ROUNDS} rounds reached are left out.",
            positions(shown),
            figures.acceptance_by_position,
        ),
        (
            "margins",
            "Logit gaps of outputs that differ from the baseline's; rounding explains small ones.",
            margins(shown),
            figures.divergence_margins,
        ),
    ]
    made = [Picture(name, caption + less, draw(frame)) for name, caption, frame, draw in drawn if len(frame)]
    return made + [
        Picture(f"sweep-{name}", f"Decode speedup of {name} by exit layer and draft length.", figure)
        for name, figure in _sweeps(section)
    ]


def speedups(shown: Sequence[Ranked], subtasks: Sequence[str]) -> pd.DataFrame:
    """``method, subtask, speedup, low, high``, where an interval is known."""
    rows = []
    for one in shown:
        for name in subtasks:
            part = one.entry.subtasks.get(name)
            if part and (interval := part.speedup.decode) and interval.is_known:
                rows.append((one.label, name, interval.estimate, interval.low, interval.high))
    return pd.DataFrame(rows, columns=["method", "subtask", "speedup", "low", "high"])


def acceptance(shown: Sequence[Ranked]) -> pd.DataFrame:
    """``method, acceptance_length, speedup, low, high`` over all questions."""
    rows = [
        (one.label, summary.acceptance.pooled, interval.estimate, interval.low, interval.high)
        for one in shown
        if (interval := (summary := one.entry.summary).speedup.decode) and summary.acceptance.pooled
    ]
    return pd.DataFrame(rows, columns=["method", "acceptance_length", "speedup", "low", "high"])


def round_times(shown: Sequence[Ranked]) -> pd.DataFrame:
    """``method, phase, milliseconds`` of a mean round; the first rows are the first entry's baseline."""
    rows: list[tuple[str, str, float]] = []
    for place, one in enumerate(shown):
        if place == 0:
            rows += _phases(BASELINE, [s for s in one.entry.samples if s.arm is Arm.BASELINE])
        rows += _phases(one.label, [s for s in one.entry.samples if s.arm is Arm.METHOD])
    frame = pd.DataFrame(rows, columns=["method", "phase", "milliseconds"])
    used = frame.groupby("phase")["milliseconds"].sum()
    return frame[frame["phase"].isin(used[used > 0].index)]


def positions(shown: Sequence[Ranked]) -> pd.DataFrame:
    """``method, position, rate, reached``; position 1 is the first drafted token."""
    rows = [
        (one.label, place.position + 1, place.rate, place.reached)
        for one in shown
        for place in one.entry.summary.acceptance.positions
        if place.reached >= LEAST_ROUNDS
    ]
    return pd.DataFrame(rows, columns=["method", "position", "rate", "reached"])


def margins(shown: Sequence[Ranked]) -> pd.DataFrame:
    """``method, margin`` of every output of an exact method that differs from the baseline's."""
    rows = [
        (one.label, sample.equivalence.margin)
        for one in shown
        if not one.entry.summary.is_lossy
        for sample in one.entry.samples
        if sample.equivalence and sample.equivalence.first_divergence is not None
    ]
    return pd.DataFrame(rows, columns=["method", "margin"])


def _phases(label: str, samples: Sequence[Sample]) -> list[tuple[str, str, float]]:
    timings = [one.timing for one in samples if one.timing]
    rounds = sum(len(one.rounds) for one in samples)
    if not rounds:
        return []
    totals = {name: sum(one.phases_s.get(name, 0.0) for one in timings) for name in PHASES}
    totals["host"] = sum(one.host_s for one in timings)
    return [(label, name, 1e3 * total / rounds) for name, total in totals.items()]


def _sweeps(section: Section) -> list[tuple[str, Figure]]:
    """A heat map for each method of which variants differ in both exit layer and draft length."""
    found: dict[str, list[tuple[int, int, float]]] = {}
    for one in section.ranked:
        layer, length = (one.entry.params.get(key) for key in ("exit_layer", "draft_length"))
        if isinstance(layer, int) and isinstance(length, int):
            found.setdefault(one.entry.method, []).append((layer, length, _estimate(one)))
    frames = {
        name: pd.DataFrame(rows, columns=["exit_layer", "draft_length", "speedup"])
        for name, rows in found.items()
    }
    return [
        (name, figures.exit_layer_by_draft_length(frame))
        for name, frame in frames.items()
        if frame["exit_layer"].nunique() > 1 and frame["draft_length"].nunique() > 1
    ]


def _estimate(one: Ranked) -> float:
    decode = one.entry.summary.speedup.decode
    return decode.estimate if decode else 0.0
