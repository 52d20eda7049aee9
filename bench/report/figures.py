"""Figures of a leaderboard section, each a pure function of a tidy frame.

Frames, one row per bar or point (`bench.report.figure_data` makes them from entries):

- overall: ``method, rank, lossy, speedup, low, high``
- speedups: ``method, lossy, subtask, speedup, low, high``
- acceptance: ``method, lossy, acceptance_length, speedup, low, high``
- time: ``method, phase, milliseconds`` (of decoding, per token)
- positions: ``method, position, rate, reached`` (position counts from 1)
- margins: ``method, margin`` (logits; one row per differing output)

A method is named beside its row or point. Colour and marker say whether its output is the model's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.direct_labels import label_points
from bench.report.style import (
    COLOURS,
    INK,
    fill,
    heat_map,
    in_order,
    new_figure,
    numbers,
    styled,
    wrapped,
)

ISO_EFFICIENCY = (1.0, 0.8, 0.6, 0.4)
"""Speedup over acceptance length: the share of a round's tokens that becomes speed."""
_PANELS = 2
_MOST_ROOM = 1.8
"""An axis of speedups ends at this many times the largest speedup at most."""
LOOKS: dict[bool, dict[str, Any]] = {
    False: {"color": COLOURS[0], "marker": "o"},
    True: {"color": COLOURS[3], "marker": "D"},
}
"""Of lossless and of lossy methods."""
_CUT = 4.0
"""Bars longer than this many medians are cut."""


def overall(frame: pd.DataFrame) -> Figure:
    """A row per method by rank: decode speedup with its interval and in figures; lossy methods below."""
    groups = [part for _, part in frame.groupby("lossy", sort=True)]
    names = [str(name) for name in frame["method"]]
    heights = [len(part) + 1 for part in groups]
    right = _right_end(frame)
    with styled():
        figure = new_figure(0.7 + _row_height(names) * (len(frame) + len(groups)) + 0.25 * len(groups))
        panels = figure.subplots(
            len(groups), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for axes, part in zip(panels, groups, strict=True):
            _intervals(axes, part, [f"{row.rank}  {row.method}" for row in part.itertuples()])
            for place, (speed, low, high) in enumerate(numbers(part, "speedup", "low", "high")):
                text = f"{speed:.2f}x [{low:.2f}, {high:.2f}]"
                axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
            is_lossy = bool(part["lossy"].iloc[0])
            axes.set_title("lossy: not the model's own output" if is_lossy else "lossless", loc="left")
            axes.set_xlim(0, right)
        panels[-1].set_xlabel("decode speedup over autoregressive decoding (x), 95 % interval")
    return figure


def speedup_by_subtask(frame: pd.DataFrame) -> Figure:
    """A panel per subtask, a row per method: decode speedup with its interval, and the line of no gain."""
    subtasks, methods = in_order(frame, "subtask"), in_order(frame, "method")
    columns = min(_PANELS, len(subtasks))
    lines = -(-len(subtasks) // columns)
    with styled():
        figure = new_figure(lines * (0.7 + _row_height(methods) * len(methods)) + 0.3)
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(subtasks) :]:
            axes.set_visible(False)
        for axes, subtask in zip(grid.flat, subtasks, strict=False):
            part = frame[frame["subtask"] == subtask].set_index("method").reindex(methods).reset_index()
            _intervals(axes, part, methods)
            axes.set_title(subtask)
        grid[0, 0].set_xlim(0, _right_end(frame))
        figure.supxlabel("decode speedup over autoregressive decoding (x), 95 % interval", fontsize=9)
    return figure


def acceptance_against_speedup(frame: pd.DataFrame) -> Figure:
    """Where each method stands between tokens per pass and speedup, with lines of equal efficiency."""
    with styled():
        figure = new_figure(4.6)
        axes = figure.subplots()
        right = max(2.0, float(frame["acceptance_length"].max())) * 1.1
        top = max(1.5, min(float(frame["high"].max()), _MOST_ROOM * float(frame["speedup"].max()))) * 1.08
        _iso_lines(axes, right, top)
        axes.set(xlabel="acceptance length (tokens per target pass)", ylabel="decode speedup (x)")
        axes.set(xlim=(0.9, right), ylim=(0, top))
        named_points(axes, frame, "acceptance_length", "speedup")
    return figure


def time_per_token(frame: pd.DataFrame, baseline: float) -> Figure:
    """Stacked bars: what a token of output costs, by phase, and the baseline's as a line.

    Bars far beyond the others are cut, and say how long they are.

    Args:
        frame: See this module.
        baseline: Milliseconds per token of autoregressive decoding.
    """
    methods, phases = in_order(frame, "method"), in_order(frame, "phase")
    table = frame.pivot(index="method", columns="phase", values="milliseconds").fillna(0.0).reindex(methods)
    totals = table.sum(axis="columns").to_numpy()
    right = min(1.12 * max(totals.max(), baseline), max(_CUT * float(np.median(totals)), 1.5 * baseline))
    with styled():
        figure = new_figure(1.3 + (0.09 + _row_height(methods)) * len(methods))
        axes = figure.subplots()
        left = np.zeros(len(methods))
        for i, phase in enumerate(phases):
            widths = np.minimum(table[phase].to_numpy(), np.maximum(right - left, 0))
            axes.barh([wrapped(name) for name in methods], widths, left=left, label=phase, **fill(i))
            left += widths
        for place, total in enumerate(totals):
            text = f"{total:.3g}" if total < 100 else f"{total:.0f}"
            axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        axes.axvline(baseline, color=INK, linewidth=1.2, linestyle="--")
        side = "left" if baseline < right / 2 else "right"
        axes.text(baseline, -0.75, f" autoregressive {baseline:.3g} ms ", fontsize=8, ha=side)
        axes.set_ylim(len(methods) - 0.4, -1.1)
        axes.set(xlim=(0, right), xlabel="decode time of a token (ms); the sum stands at the right")
        axes.grid(axis="x")
        figure.legend(loc="outside lower center", ncols=len(phases))
    return figure


def acceptance_by_position(frame: pd.DataFrame) -> Figure:
    """Heat map: of the rounds that got there, the share that accepted the next drafted token."""
    methods = in_order(frame, "method")
    table = frame.pivot(index="method", columns="position", values="rate").reindex(methods)
    with styled():
        figure = new_figure(1.0 + _row_height(methods) * len(methods))
        axes = figure.subplots()
        heat_map(axes, table.sort_index(axis="columns"), lambda rate: f"{100 * rate:.0f}", limits=(0, 1))
        axes.set_yticks(axes.get_yticks(), [wrapped(name) for name in methods])
        axes.set_title("conditional acceptance (%)")
        axes.set_xlabel("position in the draft (1 = first drafted token)")
    return figure


def divergence_margins(frame: pd.DataFrame) -> Figure:
    """How far below the target's best token the emitted ones were, where outputs differ: a row per method."""
    methods = in_order(frame, "method")
    with styled():
        figure = new_figure(0.9 + 0.1 + (0.06 + _row_height(methods)) * len(methods))
        axes = figure.subplots()
        for place, name in enumerate(methods):
            gaps = frame.loc[frame["method"] == name, "margin"].to_numpy()
            axes.plot(gaps, np.full(len(gaps), place), "|", color=COLOURS[0], markersize=9)
            text = f"{len(gaps)} differ"
            axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        axes.set_yticks(range(len(methods)), [wrapped(name) for name in methods])
        axes.set_ylim(len(methods) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel("largest logit gap to the target's best token (logits); a line per output")
        axes.grid(axis="x")
    return figure


def named_points(axes: Axes, frame: pd.DataFrame, across: str, up: str) -> None:
    """A point per method with the interval of `up` and its name beside it; call last."""
    rows = numbers(frame, across, up, "low", "high")
    kinds = frame["lossy"].astype(bool)
    for (x, y, low, high), is_lossy in zip(rows, kinds, strict=True):
        errors = None if np.isnan(low) else [[y - low], [high - y]]
        axes.errorbar(x, y, yerr=errors, capsize=2, linestyle="none", **LOOKS[bool(is_lossy)])
    if kinds.any() and not kinds.all():
        axes.plot([], [], linestyle="none", label="lossless", **LOOKS[False])
        axes.plot([], [], linestyle="none", label="lossy", **LOOKS[True])
        axes.legend(loc="lower right")
    names = [str(name) for name in frame["method"]]
    points = [(name, row[0], row[1]) for name, row in zip(names, rows, strict=True)]
    spans = [(row[1], row[1]) if np.isnan(row[2]) else (row[2], row[3]) for row in rows]
    label_points(axes, points, spans)


def _row_height(methods: list[str]) -> float:
    """Inches that a row needs for the longest of the names."""
    return 0.08 + 0.13 * max((wrapped(name).count("\n") + 1 for name in methods), default=1)


def _right_end(frame: pd.DataFrame) -> float:
    """Where an axis of speedups ends: intervals far beyond all estimates are cut."""
    highest, largest = float(frame["high"].max()), float(frame["speedup"].max())
    return max(1.2, 1.05 * min(highest, _MOST_ROOM * largest))


def _intervals(axes: Axes, frame: pd.DataFrame, names: Sequence[str]) -> None:
    """A row per row of the frame, in its order."""
    rows = zip(numbers(frame, "speedup", "low", "high"), frame["lossy"], strict=True)
    for place, ((speedup, low, high), is_lossy) in enumerate(rows):
        if not np.isnan(speedup):
            look = LOOKS[bool(is_lossy)]
            axes.errorbar(
                speedup, place, xerr=[[speedup - low], [high - speedup]], capsize=2, linestyle="none", **look
            )
    axes.axvline(1.0, color=INK, linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(names)), [wrapped(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x")


def _iso_lines(axes: Axes, right: float, top: float) -> None:
    for share in ISO_EFFICIENCY:
        end = min(right, top / share)
        axes.plot(
            [0, right], [0, right * share], color=INK, linewidth=0.7, linestyle=":", alpha=0.7, zorder=0
        )
        place = (end * 0.985, end * share * 0.985)
        axes.text(*place, f"{share:.0%}", fontsize=7.5, alpha=0.8, ha="right", va="bottom")
