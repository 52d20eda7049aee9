"""Profiles (`bench.profile`) as chapters of a leaderboard: what passes, layers and methods cost on a machine.

Profiles lie beside the runs, in ``<results>/published/profiles`` and ``<results>/profiles``. A profile is one
measurement of few prompts, without an A/A control or intervals: it explains speedups and ranks nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bench.profile.card import METHOD_HEADER, SHOWN_ROWS, method_row
from bench.profile.records import Profile, load_profile
from bench.report import curves
from bench.report.document import Chapter, Part
from bench.report.style import Picture, png
from bench.report.tables import Table
from bench.show.layout import byte_size

REMARK = (
    "The roofline is the time that reading the weights once, and the keys and values of the context, takes "
    "at the bandwidth measured on this machine. t(M) is the time of a target pass over M rows: verifying M "
    "rows is cheap as long as t(M) stays near t(1)."
)


def profile_chapters(results: Path) -> list[Chapter]:
    """A chapter per profile: the published ones first, then by file name.

    Raises:
        UserError: If a file is no profile.
    """
    published = sorted((results / "published" / "profiles").glob("*.json"))
    taken = {path.stem for path in published}
    chapters = [_chapter(path, path.stem, "") for path in published]
    for path in sorted((results / "profiles").glob("*.json")):
        is_both = path.stem in taken
        chapters.append(_chapter(path, f"{path.stem}-own" if is_both else path.stem, " (own)" * is_both))
    return chapters


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
        (rows, seconds, cost.context)
        for cost in costs
        for rows, seconds in zip(cost.passes.rows, cost.passes.seconds, strict=True)
    ]
    roofline = [(1 / profile.ceiling(cost.context), cost.context) for cost in costs]
    return curves.cost_curve(
        pd.DataFrame(measured, columns=["M", "seconds", "context"]),
        pd.DataFrame(roofline, columns=["seconds", "context"]),
    )


def layers_figure(profile: Profile) -> Figure:
    """Time of one row through the first layers, by context; zero layers are the head alone."""
    rows = [
        (layers, seconds, level.costs.context)
        for level in profile.levels
        for layers, seconds in [(0, level.costs.head.at(1)), *level.ranges_s.items()]
    ]
    return curves.layer_cost(pd.DataFrame(rows, columns=["layers", "seconds", "context"]))


def _chapter(path: Path, anchor: str, note: str) -> Chapter:
    profile = load_profile(path)
    return Chapter(
        anchor=anchor,
        title=f"Cost of passes: {profile.model} on {profile.device}, {profile.environment['dtype']}{note}",
        setting=f"{profile.parameters / 1e6:.1f} M parameters. A pass reads "
        f"{byte_size(profile.weight_bytes)} of weights; a buffer of that size is read at "
        f"{profile.bandwidth.resident / 1e9:.1f} GB/s.",
        questions="a profile",
        subtitle="A profile: passes timed alone, of few prompts, without an A/A control or intervals.",
        remarks=(REMARK,),
        parts=(
            Part(
                "Cost of passes",
                tuple(table for table in (_passes(profile), _methods(profile)) if table.rows),
                tuple(_pictures(profile)),
            ),
        ),
        records=(path.stem,),
        device=profile.device,
    )


def _passes(profile: Profile) -> Table:
    most = max((level.costs.passes.rows[-1] for level in profile.levels), default=0)
    shown = [rows for rows in SHOWN_ROWS if rows <= most]
    rows = tuple(
        (
            f"{costs.context} tokens",
            *(f"{1e3 * costs.passes.at(rows):.2f}" for rows in shown),
            f"{profile.achieved(costs):.0%}",
        )
        for costs in (level.costs for level in profile.levels)
    )
    header = ("tokens in the cache", *(f"t({rows})" for rows in shown), "share of the roofline, M = 1")
    return Table("Time of a target pass over M rows, t(M), in ms", header, rows)


def _methods(profile: Profile) -> Table:
    rows = tuple(method_row(cost) for cost in profile.methods)
    return Table(
        "Mean round of each method, and the decode speedup that pass times predict", METHOD_HEADER, rows
    )


def _pictures(profile: Profile) -> list[Picture]:
    passes = "Time of a target pass over M rows, above the time that reading its bytes takes (roofline)."
    layers = "Time of one row through the first layers; crosses: the head alone."
    pictures = [
        Picture("passes", passes, partial(passes_figure, profile)),
        Picture("layers", layers, partial(layers_figure, profile)),
    ]
    rows = [
        (cost.name, False, cost.predicted, cost.measured, float("nan"), float("nan"))
        for cost in profile.methods
        if cost.predicted is not None
    ]
    if rows:
        frame = pd.DataFrame(rows, columns=["method", "lossy", "predicted", "measured", "low", "high"])
        caption = "Decode speedup predicted from pass times, against the measured one; without intervals."
        pictures.append(Picture("prediction", caption, partial(curves.predicted_against_measured, frame)))
    place = f"{profile.model} on {profile.device}, {profile.environment['dtype']}; passes timed alone"
    return [replace(picture, place=place) for picture in pictures]
