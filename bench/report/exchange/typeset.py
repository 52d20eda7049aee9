"""A table of text as LaTeX (booktabs), CSV or Markdown.

Cells are those of the board. In CSV a figure with an interval becomes three columns of bare numbers, the
figure and its bounds, and percentiles become a column each. Numbers are rounded as shown; ``leaderboard.csv``
has more digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from bench.report.tables import Table
from bench.show.layout import markdown_table

if TYPE_CHECKING:
    import pandas as pd

Form = Literal["latex", "csv", "markdown"]
FORMS: tuple[Form, ...] = get_args(Form)
_FIGURE = re.compile(r"(-?\d+(?:\.\d+)?)x?(?: \[(-?[\d.]+|nan), ((?:>)?-?[\d.]+|nan)\])?")
"""A number, as of a speedup or a length, with its interval or without one."""
_PERCENTILES = re.compile(r"([\d.]+) / ([\d.]+) / ([\d.]+)")
_EMPTY = ("", "-")
"""Cells of figures that are not known."""
_TIMES = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)x(?!\w)")


def typeset(tables: Sequence[tuple[str, Table]], form: Form) -> str:
    """Tables one after the other in one of the forms, without a line break at the end.

    Args:
        tables: Each with what its section is about: model, device and questions.
        form: What to write. A single table in CSV has no comment above it, so that any program reads it.
    """
    if form == "csv" and len(tables) == 1:
        return _csv(tables[0][1])
    return "\n\n".join(
        _typeset(section, table, form, place) for place, (section, table) in enumerate(tables, start=1)
    )


def _typeset(section: str, table: Table, form: Form, place: int) -> str:
    if form == "csv":
        return f"# {section}\n{_csv(table)}"
    if form == "latex":
        return _latex(section, table, place)
    return "\n".join([f"**{table.title}**", "", section, "", *markdown_table(table.header, table.rows)])


def _latex(section: str, table: Table, place: int) -> str:
    """A float with caption and label; the document loads the package booktabs."""
    numeric = [
        all(_FIGURE.fullmatch(cell) or cell in _EMPTY for cell in column) for column in _columns(table)
    ]
    text = _frame(table.header, table.rows).to_latex(
        index=False,
        escape=True,
        column_format="".join("r" if is_number else "l" for is_number in numeric),
        caption=_escaped(f"{table.title}. {section}".rstrip()),
        label=f"tab:{table.name}" if place == 1 else f"tab:{table.name}-{place}",
        position="tb",
    )
    return _TIMES.sub(r"\1$\\times$", text).rstrip("\n")


def _csv(table: Table) -> str:
    split = [
        part
        for name, cells in zip(table.header, _columns(table), strict=True)
        for part in _split(name, cells)
    ]
    rows = list(zip(*(cells for _, cells in split), strict=True))
    frame = _frame([name for name, _ in split], rows)
    return str(frame.to_csv(index=False, lineterminator="\n")).rstrip("\n")


def _split(name: str, cells: Sequence[str]) -> list[tuple[str, list[str]]]:
    """A column as columns of bare numbers; as it is if it holds other text."""
    for pattern, suffixes in ((_FIGURE, ("", " low", " high")), (_PERCENTILES, (" p50", " p90", " p99"))):
        found = [pattern.fullmatch(cell) for cell in cells]
        if all(match or cell in _EMPTY for match, cell in zip(found, cells, strict=True)) and any(found):
            groups = [[(match[place] or "") if match else "" for match in found] for place in (1, 2, 3)]
            columns = [(f"{name}{suffix}", group) for suffix, group in zip(suffixes, groups, strict=True)]
            return [column for place, column in enumerate(columns) if place == 0 or any(column[1])]
    return [(name, ["" if cell in _EMPTY else cell for cell in cells])]


def _columns(table: Table) -> list[tuple[str, ...]]:
    """The cells by column; empty columns where the table has no rows."""
    return list(zip(*table.rows, strict=True)) if table.rows else [() for _ in table.header]


def _frame(header: Sequence[str], rows: Sequence[Sequence[str]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([list(row) for row in rows], columns=list(header), dtype=str)


def _escaped(text: str) -> str:
    """A text as LaTeX prints it."""
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
