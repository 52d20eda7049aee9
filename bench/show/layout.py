"""The plain-text table and the Markdown table that every command prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

COLUMNS = 110
"""Widest line of a plain-text table, in characters."""


def text_table(
    rows: Sequence[Sequence[str]],
    *,
    align: Literal["left", "right"] = "left",
    gap: int = 2,
    least: Sequence[int] = (),
    most: int = COLUMNS,
) -> list[str]:
    """Rows as lines whose columns line up; a line of more than `most` characters is cut and ends in dots.

    Every column is as wide as its longest cell. The last cell of a row with fewer cells than the longest row
    does not count: it may run on over the columns that follow it.

    Args:
        rows: Cells by row; rows may differ in length.
        align: Where the cells of every column but the first stand in it.
        gap: Spaces between two columns.
        least: Least widths of the first columns, so that tables printed one after the other line up.
        most: Widest line.
    """
    columns = max(map(len, rows), default=0)
    widths = [*least, *[0] * (columns - len(least))]
    for row in rows:
        for place, cell in enumerate(row if len(row) == columns else row[:-1]):
            widths[place] = max(widths[place], len(cell))
    return [_fit(_line(row, widths, align, " " * gap), most) for row in rows]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A pipe table in Markdown; no cell can break out of it."""
    lines = [header, ["---" for _ in header], *rows]
    return [
        f"| {' | '.join(markdown_text(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    ]


def markdown_text(text: str) -> str:
    """A text as one line of Markdown, in which nothing is read as HTML, as a link or as a picture."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return line.replace("](", "]\\(").replace("][", "]\\[")


def byte_size(count: int) -> str:
    """Bytes with a decimal unit, ``21.6 MB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _line(row: Sequence[str], widths: Sequence[int], align: str, gap: str) -> str:
    side = "<" if align == "left" else ">"
    cells = [f"{cell:{'<' if place == 0 else side}{widths[place]}}" for place, cell in enumerate(row)]
    return gap.join(cells).rstrip()


def _fit(line: str, most: int) -> str:
    return line if len(line) <= most else f"{line[: most - 3]}..."
