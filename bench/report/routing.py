"""How early experts can be told (`bench.routing`) as chapters of a leaderboard.

Records lie beside the runs, in ``<results>/published/routing`` and ``<results>/routing``.

Frame of the figure: ``guesser, distance, share``; a distance counts layers with experts.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from bench.report.document import Chapter, Part
from bench.report.style import INK, Picture, legend_below, looks, new_figure, styled
from bench.report.tables import Table
from bench.routing.records import GUESSERS, Routing, load_routing, routing_rows

CAPTION = (
    "Of the experts that a layer chose for a decoded row, the share that had been guessed so many layers "
    "earlier; the dashed line is the share that as many experts picked at random contain."
)


def routing_chapters(results: Path) -> list[Chapter]:
    """A chapter per record: the published ones first, then by file name.

    Raises:
        UserError: If a file is no such record.
    """
    published = sorted((results / "published" / "routing").glob("*.json"))
    taken = {path.stem for path in published}
    chapters = [_chapter(path, path.stem) for path in published]
    for path in sorted((results / "routing").glob("*.json")):
        chapters.append(_chapter(path, f"{path.stem}-own" if path.stem in taken else path.stem))
    return chapters


def by_distance(routing: Routing) -> Figure:
    """A line per way to guess over the distance; a way without a guess at a distance has no point there."""
    frame = pd.DataFrame(
        [
            (guesser, distance, share)
            for guesser in GUESSERS
            for distance in routing.distances
            if (share := routing.share(guesser, distance)) is not None
        ],
        columns=["guesser", "distance", "share"],
    )
    with styled():
        figure = new_figure(3.2)
        axes = figure.subplots()
        for guesser, look in looks(frame, "guesser").items():
            part = frame[frame["guesser"] == guesser]
            axes.plot(part["distance"].to_numpy(), part["share"].to_numpy(), label=guesser, **look)
        axes.axhline(routing.chance, color=INK, linewidth=0.8, linestyle="--", label="chance")
        axes.set(
            xlabel="layers ahead (layers with experts)", ylabel="chosen experts\nthat were guessed (share)"
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(0, 1)
        axes.grid()
        legend_below(figure)
    return figure


def _chapter(path: Path, anchor: str) -> Chapter:
    routing = load_routing(path)
    header, *rows = routing_rows(routing)
    title = (
        f"Of the {routing.top_k} of {routing.experts} experts that a layer chose for a row, the share among "
        f"{routing.candidates} guessed"
    )
    place = f"{routing.model}, {routing.identity['dtype']}; {routing.rows} decoded tokens of built-in prompts"
    return Chapter(
        anchor=f"routing-{anchor}",
        title=f"Experts told ahead: {routing.model}",
        setting=f"{len(routing.layers)} layers with {routing.experts} experts, {routing.top_k} per row.",
        questions="guesses of experts",
        subtitle=f"{routing.rows} decoded tokens of {routing.identity['prompts']} built-in prompts, decoded "
        "greedily with all experts in memory; all pairs of layers of a distance together, no intervals.",
        remarks=(*(f"{guesser}: {meaning}." for guesser, meaning in GUESSERS.items()), *_trained(routing)),
        parts=(
            Part(
                "Experts told ahead",
                (Table(title, header, tuple(rows)),),
                (Picture("distance", CAPTION, partial(by_distance, routing), place),),
            ),
        ),
        records=(path.stem,),
    )


def _trained(routing: Routing) -> list[str]:
    """How the changes of the rows were trained, those trained alike together."""
    alike: dict[str, list[str]] = {}
    for distance, facts in sorted(routing.changes.items(), key=lambda item: int(item[0])):
        steps = facts.get("recipe", {}).get("steps", "unknown")
        how = f"rank {facts['rank']}, {steps} steps on {facts.get('data', 'unknown data')}"
        alike.setdefault(how, []).append(distance)
    return [f"Changes for {', '.join(ahead)} layers ahead: {how}." for how, ahead in alike.items()]
