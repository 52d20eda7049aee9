"""Tidy frames for `bench.report.figures` and `bench.report.curves`, from the entries of a section."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.figure import Figure

from bench.records.model import PHASES, Arm, Sample
from bench.report import curves, figures
from bench.report.board import Apart, Ranked, Section
from bench.report.picture import Picture
from bench.report.sweeps import quality, sweep_pictures

MOST_METHODS = 20
"""More rows than this no figure can tell apart; the caption says which are drawn."""
MOST_POSITIONS = 16
LEAST_ROUNDS = 20
BASELINE = "autoregressive"


def pictures(section: Section) -> list[Picture]:
    """The figures that a section has data for."""
    shown, choice = chosen(section.ranked)
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
            "prediction",
            "Decode speedup that the measured cost of passes promises for a method's rounds, against the "
            "measured one; below the dashed line, time goes where that cost does not see it.",
            predictions(shown),
            curves.predicted_against_measured,
        ),
        (
            "positions",
            "Acceptance of each drafted token given that all before it were accepted, up to the "
            f"{MOST_POSITIONS}th; positions that fewer than {LEAST_ROUNDS} rounds reached are left out.",
            positions(shown),
            figures.acceptance_by_position,
        ),
    ]
    made = [
        Picture(name, caption + choice, draw(frame)) for name, caption, frame, draw in drawn if len(frame)
    ]
    return [*made, *_of_all(section), *sweep_pictures(section)]


def _of_all(section: Section) -> list[Picture]:
    """The figures for which no choice of methods is made."""
    drawn: list[tuple[str, str, pd.DataFrame, Callable[[pd.DataFrame], Figure]]] = [
        (
            "margins",
            "Logit gaps of outputs that differ from the baseline's; rounding explains small ones.",
            margins([*section.ranked, *section.apart]),
            figures.divergence_margins,
        ),
        (
            "quality",
            "What lossy methods pay for speed, over their confidence c; the dotted line is the target's own.",
            quality(section),
            curves.quality_against_speed,
        ),
    ]
    return [Picture(name, caption, draw(frame)) for name, caption, frame, draw in drawn if len(frame)]


def chosen(ranked: Sequence[Ranked]) -> tuple[list[Ranked], str]:
    """Whom the figures show, fastest first, and the words for it if that is not everyone.

    Where there are too many entries, the fastest stands for all variants of a method whose output is worth
    the same; sweeps have figures of their own.
    """
    by_speed = sorted(ranked, key=lambda one: -_estimate(one))
    if len(by_speed) <= MOST_METHODS:
        return by_speed, ""
    best: dict[tuple[str, bool], Ranked] = {}
    for one in by_speed:
        best.setdefault((one.entry.method, one.entry.summary.is_lossy), one)
    words = " Of several variants of a method, the fastest." if len(best) < len(by_speed) else ""
    if len(best) > MOST_METHODS:
        words += f" The {MOST_METHODS} fastest of {len(best)} methods."
    return list(best.values())[:MOST_METHODS], words


def speedups(shown: Sequence[Ranked], subtasks: Sequence[str]) -> pd.DataFrame:
    """``method, subtask, speedup, low, high``, where an interval is known."""
    rows = []
    for one in shown:
        for name in subtasks:
            part = one.entry.subtasks.get(name)
            if part and (interval := part.speedup.decode) and interval.is_known:
                rows.append((one.label, name, interval.estimate, interval.low, interval.high))
    return _frame(shown, rows, "subtask", "speedup", "low", "high")


def acceptance(shown: Sequence[Ranked]) -> pd.DataFrame:
    """``method, acceptance_length, speedup, low, high`` over all questions."""
    rows = [
        (one.label, summary.acceptance.pooled, interval.estimate, interval.low, interval.high)
        for one in shown
        if (interval := (summary := one.entry.summary).speedup.decode) and summary.acceptance.pooled
    ]
    return _frame(shown, rows, "acceptance_length", "speedup", "low", "high")


def predictions(shown: Sequence[Ranked]) -> pd.DataFrame:
    """``method, predicted, measured, low, high`` of the methods whose runs probed the cost of passes."""
    rows = [
        (one.label, predicted, interval.estimate, interval.low, interval.high)
        for one in shown
        if (interval := one.entry.summary.speedup.decode) and (predicted := one.entry.summary.predicted)
    ]
    return _frame(shown, rows, "predicted", "measured", "low", "high")


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
        for place in one.entry.summary.acceptance.positions[:MOST_POSITIONS]
        if place.reached >= LEAST_ROUNDS
    ]
    return _frame(shown, rows, "position", "rate", "reached")


def margins(shown: Sequence[Ranked | Apart]) -> pd.DataFrame:
    """``method, margin`` of every output of an exact method that differs from the baseline's."""
    rows = [
        (one.label, sample.equivalence.margin)
        for one in shown
        if not one.entry.summary.is_lossy
        for sample in one.entry.samples
        if sample.equivalence and sample.equivalence.first_divergence is not None
    ]
    return pd.DataFrame(rows, columns=["method", "margin"])


def _frame(shown: Sequence[Ranked], rows: Sequence[tuple[object, ...]], *columns: str) -> pd.DataFrame:
    """Rows by method; the methods shown are its categories, so that each looks the same in every figure."""
    frame = pd.DataFrame(rows, columns=["method", *columns])
    known = pd.CategoricalDtype([one.label for one in shown])
    return frame.astype({"method": known})


def _phases(label: str, samples: Sequence[Sample]) -> list[tuple[str, str, float]]:
    timings = [one.timing for one in samples if one.timing]
    rounds = sum(len(one.rounds) for one in samples)
    if not rounds:
        return []
    totals: dict[str, float] = {name: sum(one.phases_s.get(name, 0.0) for one in timings) for name in PHASES}
    totals["host"] = sum(one.host_s for one in timings)
    return [(label, name, 1e3 * total / rounds) for name, total in totals.items()]


def _estimate(one: Ranked) -> float:
    decode = one.entry.summary.speedup.decode
    return decode.estimate if decode else 0.0
