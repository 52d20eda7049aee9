"""The figures of a section: tidy frames from its entries, drawn by `bench.report.figures` and `curves`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from bench.metrics.latency import Latency, latency
from bench.metrics.speedups import defined
from bench.metrics.summary import predicted
from bench.records.model import PHASES, Arm, Sample
from bench.report import curves, figures
from bench.report.board import Ranked, Section, Unranked
from bench.report.style import Picture
from bench.report.sweeps import quality, sweep_pictures
from bench.report.words import place_words

MOST_METHODS = 20
"""A figure with more rows is unreadable; the caption says which are shown."""
MOST_POSITIONS = 16
LEAST_ROUNDS = 20
BASELINE = "autoregressive"
NO_ROWS = pd.DataFrame()

Candidate = tuple[str, str, pd.DataFrame, Callable[[pd.DataFrame], Figure]]
"""Name, caption, data and drawing of a figure; without rows there is none."""


def pictures(section: Section) -> list[Picture]:
    """The figures that a section has data for, each naming model, device and questions.

    A figure that compares methods needs two with a rank. Where none has a rank, the others are explained.
    """
    shown, choice = chosen(section.ranked)
    explained = shown or [Ranked(0, row.label, row.entry) for row in section.unranked][:MOST_METHODS]
    made = [
        replace(picture, caption=picture.caption + choice)
        for picture in (*_comparisons(section, shown), *_of_every_method(section, explained))
    ]
    place = place_words(section)
    every = (*made, *_of_all(section), *sweep_pictures(section))
    return [replace(picture, place=place) for picture in every]


def _comparisons(section: Section, shown: Sequence[Ranked]) -> list[Picture]:
    if len(shown) < 2:
        return []
    candidates: list[Candidate] = [
        (
            "overall",
            "Decode speedup on all questions with its 95 % interval, methods by rank; left of the dashed "
            "line a method loses time.",
            by_rank(section),
            figures.overall,
        ),
        (
            "speedup",
            "Decode speedup by kind of question with its 95 % interval; left of the dashed line a method "
            "loses time.",
            speedups(shown, section.subtasks) if len(section.subtasks) > 1 else NO_ROWS,
            figures.speedup_by_subtask,
        ),
        (
            "acceptance",
            "Acceptance length against speedup; along a dotted line, speedup is that share of the "
            "acceptance length.",
            acceptance(shown),
            figures.acceptance_against_speedup,
        ),
        (
            "prediction",
            "Decode speedup predicted from the measured time of target passes, against the measured "
            "speedup; below the dashed line a method loses time that these passes do not explain.",
            predictions(shown),
            curves.predicted_against_measured,
        ),
    ]
    return _with_data(candidates)


def _of_every_method(section: Section, shown: Sequence[Ranked]) -> list[Picture]:
    baseline = baseline_ms(shown)
    candidates: list[Candidate] = [
        (
            "time",
            f"Where the time of a token goes; a bar that ends left of the dashed line, {BASELINE} decoding, "
            "is faster.",
            token_times(shown) if baseline else NO_ROWS,
            partial(figures.time_per_token, baseline=baseline or 0.0),
        ),
        (
            "positions",
            "Acceptance of each drafted token, given that all before it were accepted, up to the "
            f"{MOST_POSITIONS}th; positions that fewer than {LEAST_ROUNDS} rounds reached are left out.",
            positions(shown),
            figures.acceptance_by_position,
        ),
        (
            "waits",
            "How long a reader waits: per token of an answer, and for the next piece of text (a round).",
            wait_percentiles(section) if shown else NO_ROWS,
            curves.waits,
        ),
    ]
    return _with_data(candidates)


def _with_data(candidates: Sequence[Candidate]) -> list[Picture]:
    """The figures that there is data for."""
    return [
        Picture(name, caption, partial(draw, frame))
        for name, caption, frame, draw in candidates
        if not frame.empty
    ]


def _of_all(section: Section) -> list[Picture]:
    """The figures that show every method."""
    candidates: list[Candidate] = [
        (
            "margins",
            "Logit gaps of outputs that differ from the baseline's; rounding explains small ones.",
            margins([*section.ranked, *section.unranked]),
            figures.divergence_margins,
        ),
        (
            "quality",
            "Quality of lossy methods against speed, by their confidence c; the dotted line is the "
            "target's own quality.",
            quality(section),
            curves.quality_against_speed,
        ),
    ]
    return _with_data(candidates)


def chosen(ranked: Sequence[Ranked]) -> tuple[list[Ranked], str]:
    """The entries that the figures show, fastest first, and what a caption says of that choice.

    All of them where there are at most `MOST_METHODS`. Of more, only the fastest lossless and the fastest
    lossy variant of each method; sweeps over variants have figures of their own.
    """
    by_speed = sorted(ranked, key=lambda row: -_estimate(row))
    if len(by_speed) <= MOST_METHODS:
        return by_speed, ""
    best: dict[tuple[str, bool], Ranked] = {}
    for row in by_speed:
        best.setdefault((row.entry.method, row.entry.summary.is_lossy), row)
    words = " Of several variants of a method, the fastest." if len(best) < len(by_speed) else ""
    if len(best) > MOST_METHODS:
        words += f" The {MOST_METHODS} fastest of {len(best)} methods."
    return list(best.values())[:MOST_METHODS], words


def by_rank(section: Section) -> pd.DataFrame:
    """``method, rank, lossy, speedup, low, high`` over all questions, lossless methods first, by rank."""
    shown, _ = chosen(section.ranked)
    ranked = [row for row in section.ranked if row in shown]
    rows = [
        (row.label, row.rank, row.entry.summary.is_lossy, speed.estimate, speed.low, speed.high)
        for row in ranked
        if (speed := row.entry.summary.speedup.decode) and speed.is_known
    ]
    return pd.DataFrame(rows, columns=["method", "rank", "lossy", "speedup", "low", "high"])


def speedups(shown: Sequence[Ranked], subtasks: Sequence[str]) -> pd.DataFrame:
    """``method, lossy, subtask, speedup, low, high``, where an interval is known."""
    rows = []
    for row in shown:
        for name in subtasks:
            part = row.entry.subtasks.get(name)
            if part and (speed := part.speedup.decode) and speed.is_known:
                bounds = (speed.estimate, speed.low, speed.high)
                rows.append((row.label, row.entry.summary.is_lossy, name, *bounds))
    return pd.DataFrame(rows, columns=["method", "lossy", "subtask", "speedup", "low", "high"])


def acceptance(shown: Sequence[Ranked]) -> pd.DataFrame:
    """``method, lossy, acceptance_length, speedup, low, high`` over all questions."""
    rows = [
        (row.label, summary.is_lossy, summary.acceptance.pooled, speed.estimate, speed.low, speed.high)
        for row in shown
        if (speed := (summary := row.entry.summary).speedup.decode) and summary.acceptance.pooled
    ]
    return pd.DataFrame(rows, columns=["method", "lossy", "acceptance_length", "speedup", "low", "high"])


def predictions(shown: Sequence[Ranked]) -> pd.DataFrame:
    """``method, lossy, predicted, measured, low, high`` of methods whose runs measured the time of passes."""
    rows = [
        (row.label, row.entry.summary.is_lossy, ratio, speed.estimate, speed.low, speed.high)
        for row in shown
        if (speed := row.entry.summary.speedup.decode) and (ratio := predicted(row.entry.summary))
    ]
    return pd.DataFrame(rows, columns=["method", "lossy", "predicted", "measured", "low", "high"])


def token_times(shown: Sequence[Ranked]) -> pd.DataFrame:
    """``method, phase, milliseconds``: decode time of a token by phase; no phases that nobody has."""
    rows: list[tuple[str, str, float]] = []
    for row in shown:
        rows += _phases(row.label, [s for s in row.entry.samples if s.arm is Arm.METHOD])
    frame = pd.DataFrame(rows, columns=["method", "phase", "milliseconds"])
    used = frame.groupby("phase")["milliseconds"].sum()
    return frame[frame["phase"].isin(used[used > 0].index)]


def baseline_ms(shown: Sequence[Ranked]) -> float | None:
    """Decode time of a token of plain decoding, of the first entry shown; None where it is unknown."""
    speeds = [row.entry.summary.baseline.decode_tokens_per_s for row in shown]
    return 1e3 / speeds[0] if speeds and speeds[0] else None


def wait_percentiles(section: Section) -> pd.DataFrame:
    """``method, wait, p50, p90, p99`` in milliseconds, per token and per round, plain decoding first."""
    rows = []
    for label, waits in latencies(section).items():
        if waits is not None:
            for name, part in (("per token", waits.per_token), ("per round", waits.per_round)):
                if part is not None:
                    rows.append((label, name, 1e3 * part.p50, 1e3 * part.p90, 1e3 * part.p99))
    return pd.DataFrame(rows, columns=["method", "wait", "p50", "p90", "p99"])


def latencies(section: Section) -> dict[str, Latency | None]:
    """The waits of plain decoding, as the first entry's run measured it, and of every entry."""
    every = section.labelled
    first = next(iter(every.values()))
    arms = {BASELINE: [s for s in first.samples if s.arm in (Arm.BASELINE, Arm.CONTROL)]}
    arms |= {label: [s for s in entry.samples if s.arm is Arm.METHOD] for label, entry in every.items()}
    return {label: defined(latency, samples) for label, samples in arms.items()}


def positions(shown: Sequence[Ranked]) -> pd.DataFrame:
    """``method, position, rate, reached``; position 1 is the first drafted token."""
    rows = [
        (row.label, place.position + 1, place.rate, place.reached)
        for row in shown
        for place in row.entry.summary.acceptance.positions[:MOST_POSITIONS]
        if place.reached >= LEAST_ROUNDS
    ]
    return pd.DataFrame(rows, columns=["method", "position", "rate", "reached"])


def margins(shown: Sequence[Ranked | Unranked]) -> pd.DataFrame:
    """``method, margin`` of every output of an exact method that differs from the baseline's."""
    rows = [
        (row.label, sample.equivalence.margin)
        for row in shown
        if not row.entry.summary.is_lossy
        for sample in row.entry.samples
        if sample.equivalence and sample.equivalence.first_divergence is not None
    ]
    return pd.DataFrame(rows, columns=["method", "margin"])


def _phases(label: str, samples: Sequence[Sample]) -> list[tuple[str, str, float]]:
    """Decode time by phase over decoded tokens: an answer's first token is the prefill's."""
    timings = [sample.timing for sample in samples if sample.timing]
    tokens = sum(len(sample.ids) - 1 for sample in samples if sample.timing)
    if not tokens:
        return []
    totals: dict[str, float] = {
        name: sum(timing.phases_s.get(name, 0.0) for timing in timings) for name in PHASES
    }
    totals["host"] = sum(timing.host_s for timing in timings)
    return [(label, name, 1e3 * total / tokens) for name, total in totals.items()]


def _estimate(row: Ranked) -> float:
    decode = row.entry.summary.speedup.decode
    return decode.estimate if decode else 0.0
