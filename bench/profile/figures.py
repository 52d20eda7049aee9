"""Figures of a profile: the cost of rows beside what the roofline allows, and the cost of layers."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from bench.profile.records import Profile

SIZE_INCHES = (6.4, 4.0)
DPI = 150


def draw_profile(profile: Profile, record: Path) -> list[Path]:
    """Draw both figures beside the record, ``<record>-passes.png`` and ``<record>-layers.png``."""
    drawings = {"passes": passes_figure(profile), "layers": layers_figure(profile)}
    paths = []
    for name, figure in drawings.items():
        path = record.with_name(f"{record.stem}-{name}.png")
        figure.savefig(path, dpi=DPI)
        paths.append(path)
    return paths


def passes_figure(profile: Profile) -> Figure:
    """t(M) by context in milliseconds, with the time that reading the bytes takes as a dashed floor."""
    figure, axes = _figure(profile, "rows of a pass (M)", "milliseconds")
    for level in profile.levels:
        curve, context = level.costs.passes, level.costs.context
        (line,) = axes.plot(
            curve.rows, [1e3 * one for one in curve.seconds], marker=".", label=f"t(M), context {context}"
        )
        axes.axhline(
            1e3 / profile.ceiling(context),
            linestyle="--",
            color=line.get_color(),
            label=f"roofline, context {context}",
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def layers_figure(profile: Profile) -> Figure:
    """One row through the first layers in milliseconds; a cross marks the head alone."""
    figure, axes = _figure(profile, "first layers of the model", "milliseconds, one row")
    for level in profile.levels:
        layers = list(level.ranges_s)
        (line,) = axes.plot(
            layers,
            [1e3 * level.ranges_s[one] for one in layers],
            marker=".",
            label=f"context {level.costs.context}",
        )
        axes.plot([0], [1e3 * level.costs.head.at(1)], "x", color=line.get_color())
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _figure(profile: Profile, across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"{profile.model} on {profile.device}, {profile.environment['dtype']}", fontsize="medium")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    return figure, axes
