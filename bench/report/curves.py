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

from bench.report.style import INK, looks, new_figure, styled


def cost_curve(frame: pd.DataFrame, roofline: pd.DataFrame | None = None) -> Figure:
    """t(M): the time of a target pass over M rows, per context length, above the roofline."""
    with styled():
        figure = new_figure(3.9)
        axes = figure.subplots()
        names = [f"{one:,} tokens" for one in sorted(frame["context"].unique())]
        for context, (name, look) in zip(sorted(frame["context"].unique()), looks(names).items(), strict=True):
            part = frame[frame["context"] == context].sort_values("M")
            axes.plot(part["M"], part["seconds"] * 1e3, label=name, **look)
        if roofline is not None:
            bound = roofline.sort_values("M")
            axes.plot(bound["M"], bound["seconds"] * 1e3, color=INK, linestyle="--", linewidth=1, label="roofline")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel="rows of a target pass, M (tokens)", ylabel="time of a pass, t(M) (ms)")
        axes.set_ylim(bottom=0)
        axes.grid()
        figure.legend(loc="outside right upper", title="context")
    return figure


def predicted_against_measured(frame: pd.DataFrame) -> Figure:
    """Predicted beside measured speedup; a point below the line loses time that the cost model does not see."""
    with styled():
        figure = new_figure(4.4, 6.4)
        axes = figure.subplots()
        top = float(frame[["predicted", "measured", "high"]].max().max()) * 1.1
        axes.plot([0, top], [0, top], color=INK, linestyle="--", linewidth=0.8, zorder=0)
        for name, look in looks([str(one) for one in frame["method"]]).items():
            row = frame[frame["method"] == name].iloc[0]
            errors = [[row["measured"] - row["low"]], [row["high"] - row["measured"]]]
            point = (row["predicted"], row["measured"])
            axes.errorbar(*point, yerr=errors, capsize=2, linestyle="none", label=name, **look)
        axes.set(xlabel="predicted decode speedup (x)", ylabel="measured decode speedup (x)")
        axes.set(xlim=(0, top), ylim=(0, top))
        axes.grid()
        figure.legend(loc="outside right upper", title="method")
    return figure


def quality_against_speed(frame: pd.DataFrame, quality: str = "quality (share of right answers)") -> Figure:
    """The curve of a lossy method over its confidence: what speed is paid for in quality."""
    with styled():
        figure = new_figure(4.0)
        axes = figure.subplots()
        for name, look in looks([str(one) for one in frame["method"].drop_duplicates()]).items():
            part = frame[frame["method"] == name].sort_values("confidence")
            axes.plot(part["speedup"], part["quality"], label=name, **look)
            for row in part.itertuples():
                place = {"xytext": (6, 5), "textcoords": "offset points", "fontsize": 7.5}
                axes.annotate(f"c={row.confidence:g}", (row.speedup, row.quality), **place)
        axes.axvline(1.0, color=INK, linewidth=0.8, linestyle="--")
        axes.set(xlabel="decode speedup (x)", ylabel=quality)
        axes.margins(0.12)
        axes.grid()
        figure.legend(loc="outside right upper", title="method")
    return figure
