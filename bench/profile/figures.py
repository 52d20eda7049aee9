"""Figures of a profile: the cost of rows beside what the roofline allows, and the cost of layers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bench.profile.records import Profile
from bench.report import curves
from bench.report.style import png


def draw_profile(profile: Profile, record: Path) -> list[Path]:
    """Draw both figures beside the record, ``<record>-passes.png`` and ``<record>-layers.png``."""
    drawings = {"passes": passes_figure(profile), "layers": layers_figure(profile)}
    paths = []
    for name, figure in drawings.items():
        path = record.with_name(f"{record.stem}-{name}.png")
        path.write_bytes(png(figure))
        paths.append(path)
    return paths


def passes_figure(profile: Profile) -> Figure:
    """t(M) by context, with the time that reading the bytes takes as a dashed floor."""
    costs = [level.costs for level in profile.levels]
    measured = [
        (rows, seconds, one.context)
        for one in costs
        for rows, seconds in zip(one.passes.rows, one.passes.seconds, strict=True)
    ]
    roofline = [(1 / profile.ceiling(one.context), one.context) for one in costs]
    return curves.cost_curve(
        pd.DataFrame(measured, columns=["M", "seconds", "context"]),
        pd.DataFrame(roofline, columns=["seconds", "context"]),
    )


def layers_figure(profile: Profile) -> Figure:
    """One row through the first layers, by context; zero layers are the head alone."""
    rows = [
        (layers, seconds, level.costs.context)
        for level in profile.levels
        for layers, seconds in [(0, level.costs.head.at(1)), *level.ranges_s.items()]
    ]
    return curves.layer_cost(pd.DataFrame(rows, columns=["layers", "seconds", "context"]))
