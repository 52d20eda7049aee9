"""Profiles (`bench.profile`) as chapters of a leaderboard: what passes, layers and methods cost on a machine.

Profiles lie beside the runs, in ``<results>/published/profiles`` and ``<results>/profiles``. A profile is one
measurement of few prompts, without an A/A control or intervals: it explains speedups and ranks nothing.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench.profile.card import SHOWN_ROWS
from bench.profile.figures import layers_figure, passes_figure
from bench.profile.records import MethodCost, Profile, load_profile
from bench.report import curves
from bench.report.document import Chapter
from bench.report.picture import Picture
from bench.report.tables import Table, number
from bench.show.machine_table import byte_size

REMARK = (
    "The roofline is the time that reading the weights once, and the keys and values of the context, takes "
    "at the bandwidth measured on this machine. Verifying M rows is cheap as long as t(M) stays near t(1)."
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


def _chapter(path: Path, anchor: str, note: str) -> Chapter:
    profile = load_profile(path)
    return Chapter(
        anchor=anchor,
        title=f"Cost of passes: {profile.model} on {profile.device}, {profile.environment['dtype']}{note}",
        questions="a profile",
        subtitle=f"{profile.parameters / 1e6:.1f} M parameters. A pass reads "
        f"{byte_size(profile.weight_bytes)} of weights, at {profile.bandwidth.resident / 1e9:.1f} GB/s.",
        remarks=(REMARK,),
        tables=tuple(table for table in (_passes(profile), _methods(profile)) if table.rows),
        pictures=tuple(_pictures(profile)),
        records=(path.stem,),
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
    header = ("context", *(f"t({rows})" for rows in shown), "of the roofline at M = 1")
    return Table("Time of a target pass over M rows, t(M), in ms", header, rows)


def _methods(profile: Profile) -> Table:
    header = ("method", "tokens per round", "draft, ms", "verify, ms", "other, ms", "predicted", "measured")
    rows = tuple(_method_row(one) for one in profile.methods)
    return Table("Cost of a round, and the decode speedup that it predicts", header, rows)


def _method_row(one: MethodCost) -> tuple[str, ...]:
    other_s = one.decode_s - one.draft_s - one.verify_s
    parts_s = (one.draft_s, one.verify_s, other_s)
    tokens = "given" if one.is_cost_only else number(one.tokens / one.rounds)
    costs = (number(1e3 * seconds / one.rounds) for seconds in parts_s)
    return one.name, tokens, *costs, number(one.predicted, unit="x"), number(one.measured, unit="x")


def _pictures(profile: Profile) -> list[Picture]:
    passes = "Time of a target pass over M rows, above the time that reading its bytes takes (roofline)."
    found = [
        Picture("passes", passes, passes_figure(profile)),
        Picture(
            "layers",
            "Time of one row through the first layers; crosses: the head alone.",
            layers_figure(profile),
        ),
    ]
    rows = [
        (one.name, one.predicted, one.measured, float("nan"), float("nan"))
        for one in profile.methods
        if one.predicted is not None
    ]
    if rows:
        frame = pd.DataFrame(rows, columns=["method", "predicted", "measured", "low", "high"])
        caption = (
            "Decode speedup that the costs promise, against the measured one; few prompts, so no intervals."
        )
        found.append(Picture("prediction", caption, curves.predicted_against_measured(frame)))
    return found
