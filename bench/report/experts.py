"""What loading experts cost, on the board: a table, and speed and stall by the share of experts in memory.

Frame of the figure, one row per policy and size of the fast store: ``policy``, ``share`` (of the model's
experts), ``speedup, low, high`` (decode speed over that with all experts in memory; NaN without an interval)
and ``stall`` (share of decode time).
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bench.metrics.intervals import with_bar
from bench.outline.experts import experts_in_all
from bench.report.board import Section
from bench.report.entries import Entry
from bench.report.style import INK, Picture, legend_below, looks, new_figure, numbers, styled
from bench.report.tables import Table
from bench.report.words import place_words
from bench.show.expert_rows import arena_expert_rows

CAPTION = (
    "Decode speed over plain decoding with all experts in memory (the dashed line), with its 95 % interval, "
    "and the share of decode time spent waiting for experts, by the share of the model's experts that the "
    "fast store has room for. Points of one share are drawn side by side."
)
SIDE_BY_SIDE = 0.008
"""Distance between points of one share."""


def expert_tables(section: Section) -> list[Table]:
    """What loading experts cost, one method a row; none where no method loads any."""
    rows = arena_expert_rows({label: entry.summary for label, entry in section.labelled.items()})
    if not rows:
        return []
    title = "Experts of decoded tokens: where they were when they were needed, what was read, what was waited"
    return [Table(title, ("method", *rows[0][1:]), tuple(rows[1:]), "experts")]


def expert_pictures(section: Section) -> list[Picture]:
    """Speed and stall by share of experts in memory; none without two sizes of the store."""
    frame = share_frame(section)
    if frame["share"].nunique() < 2:
        return []
    return [Picture("experts", CAPTION, partial(by_share, frame), place_words(section))]


def share_frame(section: Section) -> pd.DataFrame:
    """The frame of the figure, policies in the order of the board."""
    rows = [
        (policy, slots / total, *with_bar(entry.summary.speedup.decode), figures.stall)
        for policy, entry in _policies(section)
        if (figures := entry.summary.experts) is not None
        and (slots := figures.slots)
        and (total := experts_in_all(figures.total, entry.summary.run))
    ]
    columns = ["policy", "share", "speedup", "low", "high", "stall"]
    return pd.DataFrame(rows, columns=columns).sort_values(["policy", "share"], ignore_index=True)


def by_share(frame: pd.DataFrame) -> Figure:
    """Two panels over the share of experts in memory, a line per policy."""
    with styled():
        figure = new_figure(5.2)
        speed, stall = figure.subplots(2, 1, sharex=True)
        speed.axhline(1.0, color=INK, linewidth=0.8, linestyle="--")
        for place, (policy, look) in enumerate(looks(frame, "policy").items()):
            part = frame[frame["policy"] == policy]
            shift = SIDE_BY_SIDE * (place - (frame["policy"].nunique() - 1) / 2)
            _lines(speed, stall, part.assign(share=part["share"] + shift), policy, look)
        speed.set_ylabel("decode speed over\nall experts in memory (x)")
        stall.set(xlabel="experts that the fast store has room for (share of the model's)")
        stall.set_ylabel("waiting for experts\n(share of decode time)")
        stall.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        stall.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        stall.set_xticks(sorted(frame["share"].unique()))
        for axes in (speed, stall):
            axes.set_ylim(bottom=0)
            axes.grid()
        legend_below(figure)
    return figure


def _lines(speed: Axes, stall: Axes, part: pd.DataFrame, policy: str, look: dict[str, Any]) -> None:
    """The lines of one policy; an interval that is not known is left out."""
    shares, speedups, lows, highs = zip(*numbers(part, "share", "speedup", "low", "high"), strict=True)
    below = [speedup - low for speedup, low in zip(speedups, lows, strict=True)]
    above = [high - speedup for speedup, high in zip(speedups, highs, strict=True)]
    speed.errorbar(shares, speedups, yerr=[below, above], capsize=2, label=policy, **look)
    stall.plot(shares, part["stall"].to_numpy(), **look)


def _policies(section: Section) -> list[tuple[str, Entry]]:
    """Every entry with the name of its policy: the method, and settings other than the store's size in which
    the entries of one method differ.
    """
    found = []
    for entry in section.labelled.values():
        variants = [other.params for other in section.entries if other.method == entry.method]
        keys = sorted({key for params in variants for key in params} - {"slots"})
        differing = [key for key in keys if len({json.dumps(params.get(key)) for params in variants}) > 1]
        settings = ", ".join(f"{key}={json.dumps(entry.params.get(key))}" for key in differing)
        found.append((f"{entry.method} ({settings})" if settings else entry.method, entry))
    return found
