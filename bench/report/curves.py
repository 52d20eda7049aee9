"""Figures about cost, quality and sweeps, each a pure function of a tidy frame.

Frames:

- cost curve: ``M, seconds, context`` (rows verified at once, seconds of a pass, tokens in the cache), and the
  roofline: ``seconds, context`` (least time of a pass, by the bytes that it reads)
- layer cost: ``layers, seconds, context`` (seconds of one row through that many layers; 0 is the head alone)
- prediction: ``method, lossy, predicted, measured, low, high`` (speedups and the measured interval, NaN
  without one)
- waits: ``method, wait, p50, p90, p99`` (milliseconds)
- speed over time: ``hours, tokens_per_s, running`` (since the start; of one answer, and its running median)
- quality: ``method, confidence, speedup, right, right_of_target, nats, nats_of_target`` (shares of right
  answers, and nats per token of the output under the target, each beside the baseline's; NaN where unknown)
- sweep: one column per swept setting, and ``speedup, low, high``
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.report.figures import named_points
from bench.report.style import (
    COLOURS,
    INK,
    MARKERS,
    heat_map,
    in_order,
    legend_below,
    looks,
    new_figure,
    numbers,
    styled,
    wrapped,
)

QUALITIES = {
    "right": "right answers (share)",
    "nats": "output under the target\n(nats per token, less is better)",
}
UNITS = {"draft_length": "tokens"}
_CUT = 5.0
"""Waits beyond this many medians are cut."""


def cost_curve(frame: pd.DataFrame, roofline: pd.DataFrame | None = None) -> Figure:
    """t(M): the time of a target pass over M rows, per context length, above its roofline."""
    with styled():
        figure = new_figure(3.7)
        axes = figure.subplots()
        for context, look in looks(frame, "context").items():
            part = frame[frame["context"].astype(str) == context].sort_values("M")
            name = f"{int(context):,} tokens"
            axes.plot(part["M"].to_numpy(), part["seconds"].to_numpy() * 1e3, label=name, **look)
            if roofline is not None:
                (least,) = roofline.loc[roofline["context"].astype(str) == context, "seconds"]
                line = {"color": look["color"], "linestyle": "--", "linewidth": 1}
                axes.axhline(least * 1e3, label=f"{name}: roofline", **line)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel="rows of a target pass, M (tokens)", ylabel="time of a pass, t(M) (ms)")
        axes.set_ylim(bottom=0)
        axes.grid()
        legend_below(figure, "context")
    return figure


def layer_cost(frame: pd.DataFrame) -> Figure:
    """Time of one row through the first layers, per context length; a cross marks the head alone."""
    with styled():
        figure = new_figure(3.2)
        axes = figure.subplots()
        for context, look in looks(frame, "context").items():
            part = frame[frame["context"].astype(str) == context]
            head, ranges = part[part["layers"] == 0], part[part["layers"] > 0].sort_values("layers")
            name = f"{int(context):,} tokens"
            axes.plot(ranges["layers"].to_numpy(), ranges["seconds"].to_numpy() * 1e3, label=name, **look)
            axes.plot([0], head["seconds"].to_numpy() * 1e3, color=look["color"], marker="x")
        axes.set(xlabel="first layers of the model (0 = the head alone)", ylabel="time of one row (ms)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.grid()
        legend_below(figure, "context")
    return figure


def predicted_against_measured(frame: pd.DataFrame) -> Figure:
    """Predicted beside measured speedup; below the line, time is lost that the prediction leaves out."""
    with styled():
        figure = new_figure(4.4)
        axes = figure.subplots()
        top = float(frame[["predicted", "measured"]].max().max()) * 1.25
        axes.plot([0, top], [0, top], color=INK, linestyle="--", linewidth=0.8, zorder=0)
        axes.set(xlabel="predicted decode speedup (x)", ylabel="measured decode speedup (x)")
        axes.set(xlim=(0, top), ylim=(0, top))
        axes.grid()
        named_points(axes, frame, "predicted", "measured")
    return figure


def waits(frame: pd.DataFrame) -> Figure:
    """A row per method: the 50th, 90th and 99th percentile of its waits, per token and per round."""
    methods, kinds = in_order(frame, "method"), in_order(frame, "wait")
    with styled():
        figure = new_figure(1.0 + 0.22 * len(methods))
        panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for axes, kind in zip(panels, kinds, strict=True):
            part = frame[frame["wait"] == kind].set_index("method").reindex(methods)
            for place, (p50, p90, p99) in enumerate(numbers(part, "p50", "p90", "p99")):
                axes.plot([p50, p99], [place, place], color=COLOURS[0], linewidth=1)
                axes.plot([p50], [place], "o", color=COLOURS[0])
                axes.plot([p90, p99], [place, place], "|", color=COLOURS[0], markersize=8)
            axes.set(title=kind, xlabel="wait (ms)")
            most = max(_CUT * float(part["p50"].median()), 1.3 * float(part["p50"].max()))
            axes.set_xlim(0, min(float(part["p99"].max()) * 1.05, most))
            axes.grid(axis="x")
        figure.supxlabel("dot: 50th percentile; marks: 90th and 99th", fontsize=9)
        panels[0].set_yticks(range(len(methods)), [wrapped(name) for name in methods])
        panels[0].set_ylim(len(methods) - 0.4, -0.6)
    return figure


def quality_against_speed(frame: pd.DataFrame) -> Figure:
    """The curve of a lossy method over its confidence c: what speed costs in quality, by each measure."""
    measures = [name for name in QUALITIES if frame[name].notna().any()]
    with styled():
        figure = new_figure(0.4 + 2.6 * len(measures))
        panels = figure.subplots(len(measures), 1, sharex=True, squeeze=False)[:, 0]
        for axes, measure in zip(panels, measures, strict=True):
            _quality_panel(axes, frame, measure, has_names=axes is panels[0])
        panels[-1].set_xlabel("decode speedup (x)")
        legend_below(figure)
    return figure


def sweep_map(frame: pd.DataFrame, across: str, up: str) -> Figure:
    """Heat map of a sweep over two settings: decode speedup in every cell; the best is bold."""
    table = frame.pivot(index=up, columns=across, values="speedup").sort_index().sort_index(axis="columns")
    with styled():
        figure = new_figure(0.9 + 0.36 * len(table))
        axes = figure.subplots()
        heat_map(axes, table, lambda speedup: f"{speedup:.2f}", marks_best=True)
        axes.set(title="decode speedup (x)", xlabel=_setting(across), ylabel=_setting(up))
    return figure


def sweep_curve(frame: pd.DataFrame, across: str) -> Figure:
    """Decode speedup over one setting, with its interval and the line of no gain."""
    rows = numbers(frame.sort_values(across), across, "speedup", "low", "high")
    values, speedups, lows, highs = (np.array(column) for column in zip(*rows, strict=True))
    with styled():
        figure = new_figure(3.2)
        axes = figure.subplots()
        errors = [speedups - lows, highs - speedups]
        axes.errorbar(values, speedups, yerr=errors, color=COLOURS[0], marker=MARKERS[0], capsize=2)
        axes.axhline(1.0, color=INK, linewidth=0.8, linestyle="--")
        axes.set(xlabel=_setting(across), ylabel="decode speedup (x)")
        axes.set_ylim(bottom=0)
        axes.grid()
    return figure


def _quality_panel(axes: Axes, frame: pd.DataFrame, measure: str, *, has_names: bool) -> None:
    for name, look in looks(frame).items():
        part = frame[(frame["method"] == name) & frame[measure].notna()].sort_values("confidence")
        label = wrapped(name) if has_names else None
        axes.plot(part["speedup"].to_numpy(), part[measure].to_numpy(), label=label, **look)
        for confidence, speedup, quality in numbers(part, "confidence", "speedup", measure):
            axes.annotate(
                f"c={confidence:g}", (speedup, quality), (6, 5), textcoords="offset points", fontsize=7.5
            )
    label = "the target's own" if has_names else None
    axes.axhline(frame[f"{measure}_of_target"].mean(), color=INK, linewidth=1, linestyle=":", label=label)
    axes.axvline(1.0, color=INK, linewidth=0.8, linestyle="--")
    axes.set_ylabel(QUALITIES[measure])
    axes.margins(0.14, 0.2)
    if measure == "right":
        axes.set_ylim(-0.05, 1.08)
    axes.grid()


def _setting(name: str) -> str:
    unit = f" ({UNITS[name]})" if name in UNITS else ""
    return name.replace("_", " ") + unit


def speed_over_time(frame: pd.DataFrame) -> Figure:
    """The baseline's speed from answer to answer, with its running median."""
    with styled():
        figure = new_figure(2.6)
        axes = figure.subplots()
        minutes, speeds, running = (
            frame["hours"].to_numpy() * 60,
            frame["tokens_per_s"].to_numpy(),
            frame["running"].to_numpy(),
        )
        axes.plot(minutes, speeds, linestyle="none", marker=".", markersize=4, color=COLOURS[5])
        axes.plot(minutes, running, color=COLOURS[0])
        axes.set(xlabel="time since the start (min)", ylabel="baseline (tokens/s)")
        axes.set_ylim(bottom=0)
        axes.grid()
    return figure
