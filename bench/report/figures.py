"""Figures of a leaderboard section, each a pure function of a tidy frame.

Frames, one row per bar or point (`bench.report.figure_data` makes them from entries):

- speedups: ``method, subtask, speedup, low, high``
- acceptance: ``method, acceptance_length, speedup, low, high``
- time: ``method, phase, milliseconds`` (per round; for the baseline per token)
- positions: ``method, position, rate, reached`` (position counts from 1)
- margins: ``method, margin`` (logits; one row per differing output)

A categorical ``method`` keeps its colour and marker over all figures, see `bench.report.style.looks`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report.style import (
    INK,
    fill,
    heat_map,
    in_order,
    legend_below,
    looks,
    new_figure,
    numbers,
    styled,
    wrapped,
)

ISO_EFFICIENCY = (1.0, 0.8, 0.6, 0.4)
"""Speedup over acceptance length: the share of a round's tokens that becomes speed."""
_PANELS = 2
_BINS = 20
_CUT = 4.0
"""Bars longer than this many medians are cut."""


def speedup_by_subtask(frame: pd.DataFrame) -> Figure:
    """A panel per subtask, a row per method: decode speedup with its interval, and the line of no gain."""
    subtasks, styles = in_order(frame, "subtask"), looks(frame)
    columns = min(_PANELS, len(subtasks))
    lines = -(-len(subtasks) // columns)
    with styled():
        figure = new_figure(lines * (0.7 + _row_height(list(styles)) * len(styles)) + 0.3)
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(subtasks) :]:
            axes.set_visible(False)
        for axes, subtask in zip(grid.flat, subtasks, strict=False):
            _intervals(axes, frame[frame["subtask"] == subtask], styles)
            axes.set_title(subtask)
        figure.supxlabel("decode speedup over autoregressive decoding (x), 95 % interval", fontsize=9)
    return figure


def acceptance_against_speedup(frame: pd.DataFrame) -> Figure:
    """Where each method stands between tokens per pass and speedup, with lines of equal efficiency."""
    with styled():
        figure = new_figure(5.0)
        axes = figure.subplots()
        right = max(2.0, float(frame["acceptance_length"].max())) * 1.08
        top = max(1.5, float(frame[["speedup", "high"]].max().max())) * 1.12
        _iso_lines(axes, right, top)
        rows = numbers(frame, "acceptance_length", "speedup", "low", "high")
        for (name, look), (length, speedup, low, high) in zip(looks(frame).items(), rows, strict=True):
            errors, label = [[speedup - low], [high - speedup]], wrapped(name)
            axes.errorbar(length, speedup, yerr=errors, capsize=2, linestyle="none", label=label, **look)
        axes.set(xlabel="acceptance length (tokens per target pass)", ylabel="decode speedup (x)")
        axes.set(xlim=(0.9, right), ylim=(0, top))
        legend_below(figure)
    return figure


def time_per_round(frame: pd.DataFrame) -> Figure:
    """Stacked bars: what a round costs, by phase; the baseline's round is one token.

    Bars far beyond the others are cut, and say how long they are.
    """
    methods, phases = in_order(frame, "method"), in_order(frame, "phase")
    table = frame.pivot(index="method", columns="phase", values="milliseconds").fillna(0.0).reindex(methods)
    totals = table.sum(axis="columns").to_numpy()
    right = min(1.08 * totals.max(), _CUT * float(np.median(totals)))
    with styled():
        figure = new_figure(1.1 + (0.07 + _row_height(methods)) * len(methods))
        axes = figure.subplots()
        left = np.zeros(len(methods))
        for i, phase in enumerate(phases):
            widths = np.minimum(table[phase].to_numpy(), np.maximum(right - left, 0))
            axes.barh([wrapped(name) for name in methods], widths, left=left, label=phase, **fill(i))
            left += widths
        for place in np.flatnonzero(totals > right):
            axes.text(
                0.97 * right,
                float(place),
                f"{totals[place]:.0f} ms",
                color="black",
                ha="right",
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "pad": 1},
            )
        axes.invert_yaxis()
        axes.set(xlim=(0, right), xlabel="time of a round (ms)")
        axes.grid(axis="x")
        figure.legend(loc="outside upper center", ncols=len(phases))
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
    """How far below the target's best token the emitted ones were, where outputs differ."""
    methods = in_order(frame, "method")
    edges = np.linspace(0.0, max(float(frame["margin"].max()), 1e-6), _BINS + 1)
    bottom = np.zeros(_BINS)
    with styled():
        figure = new_figure(3.9)
        axes = figure.subplots()
        for i, name in enumerate(methods):
            counts, _ = np.histogram(frame.loc[frame["method"] == name, "margin"].to_numpy(), edges)
            label = wrapped(name)
            axes.bar(edges[:-1], counts, np.diff(edges), bottom, align="edge", label=label, **fill(i))
            bottom += counts
        axes.set(
            xlabel="largest logit gap to the target's best token (logits)",
            ylabel="outputs that differ (count)",
        )
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(figure)
    return figure


def _row_height(methods: list[str]) -> float:
    """Inches that a row needs for the longest of the names."""
    return 0.08 + 0.13 * max((wrapped(name).count("\n") + 1 for name in methods), default=1)


def _intervals(axes: Axes, frame: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    for place, (name, look) in enumerate(styles.items()):
        for speedup, low, high in numbers(frame[frame["method"] == name], "speedup", "low", "high"):
            errors = [[speedup - low], [high - speedup]]
            axes.errorbar(speedup, place, xerr=errors, capsize=2, linestyle="none", **look)
    axes.axvline(1.0, color=INK, linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(styles)), [wrapped(name) for name in styles])
    axes.set_ylim(len(styles) - 0.4, -0.6)
    axes.grid(axis="x")


def _iso_lines(axes: Axes, right: float, top: float) -> None:
    for share in ISO_EFFICIENCY:
        end = min(right, top / share)
        axes.plot(
            [0, right], [0, right * share], color=INK, linewidth=0.7, linestyle=":", alpha=0.7, zorder=0
        )
        place = (end * 0.985, end * share * 0.985)
        axes.text(*place, f"{share:.0%}", fontsize=7.5, alpha=0.8, ha="right", va="bottom")
