"""Figures about cost and quality, each a pure function of a tidy frame that somebody else measured.

Frames:

- cost curve: ``M, seconds, context`` (rows verified at once, seconds of a pass, tokens in the cache), and the
  roofline: ``M, seconds`` (least time that bandwidth and arithmetic allow)
- prediction: ``method, predicted, measured, low, high`` (speedups and the measured interval)
- quality: ``method, confidence, speedup, quality``
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.report.style import INK, legend_below, looks, new_figure, numbers, styled


def cost_curve(frame: pd.DataFrame, roofline: pd.DataFrame | None = None) -> Figure:
    """t(M): the time of a target pass over M rows, per context length, above the roofline."""
    with styled():
        figure = new_figure(3.9)
        axes = figure.subplots()
        contexts = sorted(frame["context"].unique().tolist())
        named = looks([f"{one:,} tokens" for one in contexts])
        for context, (name, look) in zip(contexts, named.items(), strict=True):
            part = frame[frame["context"] == context].sort_values("M")
            axes.plot(part["M"].to_numpy(), part["seconds"].to_numpy() * 1e3, label=name, **look)
        if roofline is not None:
            bound = roofline.sort_values("M")
            least_ms = bound["seconds"].to_numpy() * 1e3
            axes.plot(
                bound["M"].to_numpy(), least_ms, color=INK, linestyle="--", linewidth=1, label="roofline"
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel="rows of a target pass, M (tokens)", ylabel="time of a pass, t(M) (ms)")
        axes.set_ylim(bottom=0)
        axes.grid()
        legend_below(figure, "context")
    return figure


def predicted_against_measured(frame: pd.DataFrame) -> Figure:
    """Predicted beside measured speedup; below the line, time is lost that the cost model does not see."""
    with styled():
        figure = new_figure(5.0)
        axes = figure.subplots()
        top = float(frame[["predicted", "measured", "high"]].max().max()) * 1.1
        axes.plot([0, top], [0, top], color=INK, linestyle="--", linewidth=0.8, zorder=0)
        named = looks([str(one) for one in frame["method"]])
        rows = numbers(frame, "predicted", "measured", "low", "high")
        for (name, look), (predicted, measured, low, high) in zip(named.items(), rows, strict=True):
            errors = [[measured - low], [high - measured]]
            axes.errorbar(predicted, measured, yerr=errors, capsize=2, linestyle="none", label=name, **look)
        axes.set(xlabel="predicted decode speedup (x)", ylabel="measured decode speedup (x)")
        axes.set(xlim=(0, top), ylim=(0, top))
        axes.grid()
        legend_below(figure)
    return figure


def quality_against_speed(frame: pd.DataFrame, quality: str = "quality (share of right answers)") -> Figure:
    """The curve of a lossy method over its confidence: what speed is paid for in quality."""
    with styled():
        figure = new_figure(4.0)
        axes = figure.subplots()
        for name, look in looks([str(one) for one in frame["method"].drop_duplicates()]).items():
            part = frame[frame["method"] == name].sort_values("confidence")
            axes.plot(part["speedup"].to_numpy(), part["quality"].to_numpy(), label=name, **look)
            for confidence, speedup, share in numbers(part, "confidence", "speedup", "quality"):
                place = (speedup, share)
                axes.annotate(f"c={confidence:g}", place, (6, 5), textcoords="offset points", fontsize=7.5)
        axes.axvline(1.0, color=INK, linewidth=0.8, linestyle="--")
        axes.set(xlabel="decode speedup (x)", ylabel=quality)
        axes.margins(0.12)
        axes.grid()
        legend_below(figure)
    return figure
