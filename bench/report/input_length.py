"""``python -m bench.report input-length``: speedup and acceptance of a run by the length of the prompt.

`input_length_table` and `input_length_picture` are pure functions of a section, for a page that wants them.

Frame: ``method, tokens, range, speedup, low, high, acceptance_length`` (tokens: median length of the range's
prompts).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.errors import UserError
from bench.metrics.input_length import (
    LengthRange,
    by_input_length,
    filled_edges,
    prompt_lengths,
    spans_lengths,
)
from bench.metrics.intervals import with_bar
from bench.metrics.run_figures import number, speedup
from bench.records.files import write_bytes
from bench.report.board import Section, sections
from bench.report.entries import entries
from bench.report.stored_runs import read_whole_run
from bench.report.style import Picture, png, styled, svg
from bench.report.tables import Table
from bench.report.two_panels import speed_and_acceptance
from bench.show.layout import text_table
from bench.show.length_table import speed_and_length

HEADER = (
    *("prompt tokens", "method", "turns", "questions"),
    *("decode speedup", "end-to-end speedup", "acceptance length"),
)
CAPTION = (
    "Decode speedup with its 95 % interval, and acceptance length, by the number of prompt tokens; a mark "
    "stands at the median length of its range."
)
_SPREAD = 0.25
"""Marks of several methods in one range stand side by side, all of them within so many powers of two."""


def section_ranges(
    section: Section, edges: Sequence[int] | None = None
) -> dict[str, tuple[LengthRange, ...]]:
    """The ranges of every entry of a section by its label, those with a rank first.

    Args:
        section: The section.
        edges: Where ranges begin; None: powers of two, short ranges joined, the same for all entries.
    """
    rows = [(row.label, row.entry) for row in section.ranked]
    rows += [(row.label, row.entry) for row in section.unranked]
    if edges is None:
        lengths = {key: length for _, entry in rows for key, length in prompt_lengths(entry.samples).items()}
        edges = filled_edges(lengths)
    made = {
        label: by_input_length(entry.samples, edges, is_cost_only=entry.summary.is_cost_only)
        for label, entry in rows
    }
    return {label: ranges for label, ranges in made.items() if ranges}


def input_length_table(section: Section, edges: Sequence[int] | None = None) -> Table:
    """One range and method a row, so that methods stand below each other within a range."""
    by_label = section_ranges(section, edges)
    lows = sorted({part.low for ranges in by_label.values() for part in ranges})
    rows = [
        (
            *(part.name, label, str(part.turns), str(part.questions)),
            *(speedup(part.speedup.decode), speedup(part.speedup.end_to_end), number(part.acceptance_length)),
        )
        for low in lows
        for label, ranges in by_label.items()
        for part in ranges
        if part.low == low
    ]
    return Table("Speedup and acceptance length by prompt tokens", HEADER, tuple(rows), "input_length")


def compact_tables(section: Section) -> list[Table]:
    """One method a row and one range a column, where prompts differ enough in length; else none."""
    by_label = section_ranges(section)
    if not any(map(spans_lengths, by_label.values())):
        return []
    parts = {part.low: part.name for ranges in by_label.values() for part in ranges}
    rows = [
        (label, *(speed_and_length({part.low: part for part in ranges}.get(low)) for low in sorted(parts)))
        for label, ranges in by_label.items()
    ]
    header = ("method", *(f"{parts[low]} tokens" for low in sorted(parts)))
    title = "Decode speedup, and acceptance length, by prompt tokens; long prompts are often of other kinds"
    return [Table(title, header, tuple(rows))]


def input_length_frame(section: Section, edges: Sequence[int] | None = None) -> pd.DataFrame:
    """What the figure shows, see this module's docstring; the methods are categories."""
    by_label = section_ranges(section, edges)
    rows = [
        (label, part.median_tokens, part.name, *with_bar(part.speedup.decode), part.acceptance_length)
        for label, ranges in by_label.items()
        for part in ranges
    ]
    columns = ["method", "tokens", "range", "speedup", "low", "high", "acceptance_length"]
    return pd.DataFrame(rows, columns=columns).astype({"method": pd.CategoricalDtype(list(by_label))})


def input_length_figure(frame: pd.DataFrame) -> Figure:
    """Two panels over the length of the prompt: decode speedup, and acceptance length."""
    with styled():
        panels = speed_and_acceptance(frame, "tokens", height=4.6, spread=_SPREAD)
        panels.acceptance.set_xlabel("prompt length (tokens)")
        panels.acceptance.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return panels.figure


def input_length_picture(section: Section, edges: Sequence[int] | None = None) -> Picture:
    """The figure with its caption."""
    frame = input_length_frame(section, edges)
    return Picture("input-length", CAPTION, partial(input_length_figure, frame))


def edges_from(text: str | None) -> list[int] | None:
    """The edges that a command line gives, such as ``1024,4096``; None without any.

    Raises:
        UserError: If they are no ascending whole numbers above 0.
    """
    if text is None:
        return None
    parts = text.split(",")
    edges = [int(part) for part in parts if part.strip().isascii() and part.strip().isdecimal()]
    if len(edges) < len(parts) or edges != sorted(set(edges)) or edges[0] < 1:
        raise UserError(
            f"--edges must be ascending whole numbers above 0, got {text}", "write --edges 1024,4096"
        )
    return edges


def show_lengths(run: Path, edges: Sequence[int] | None, figure: Path | None) -> str:
    """The table of a run as text; the figure is written where one is asked for.

    Raises:
        UserError: If the run cannot be read, holds no comparison, or the figure cannot be written.
    """
    (section,) = sections(entries(read_whole_run(run)))
    table = input_length_table(section, edges)
    if not table.rows:
        raise UserError(f"{run} holds no prompt that baseline and method completed", "let the run finish")
    lines = text_table([table.header, *table.rows])
    if figure is not None:
        draw(input_length_picture(section, edges), figure)
        lines.append(str(figure))
    return "\n".join(lines)


def draw(picture: Picture, path: Path) -> None:
    """Write a figure as .png or .svg.

    Raises:
        UserError: If the file has another ending, or cannot be written.
    """
    if path.suffix not in (".png", ".svg"):
        raise UserError(f"{path} must end in .png or .svg", "give --figure such a name")
    content = png(picture.figure) if path.suffix == ".png" else svg(picture.figure, picture.name).encode()
    try:
        write_bytes(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}", "choose another file with --figure") from error
