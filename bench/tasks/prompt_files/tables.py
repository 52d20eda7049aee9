"""Rows of CSV and TSV: the first line names the columns; empty cells are absent.

The cells are separated by commas, tabs or semicolons, whichever the first line holds most of. A text with
line breaks stands in quotes.
"""

import csv
import io
import sys
from collections.abc import Iterator
from typing import Any

from bench.errors import UserError
from bench.tasks.prompt_files.conversation import TEXT_KEYS
from bench.tasks.prompt_files.faults import NumberedRow, at_line

SEPARATORS = ",\t;"
SUFFIXES = (".csv", ".tsv")
USUAL = ("text", "query", "input")
"""Columns that hold the prompt where no column has a name that rows of JSON have."""
NAMES = (*TEXT_KEYS, *USUAL, "context", "system", "id", "question_id", "task_id", "subtask", "category")
REFERENCES = ("reference", "references")
FIX = "Write the names of the columns on the first line, and texts with a separator or line break in quotes."


def has_header(line: str) -> bool:
    """Whether a line names columns, one of which is known to hold prompts."""
    cells = [_plain(cell) for cell in line.split(_separator(line))]
    return len(cells) > 1 and any(cell in (*TEXT_KEYS, *USUAL) for cell in cells)


def table_rows(text: str, name: str, column: str | None = None) -> Iterator[NumberedRow]:
    """The rows of a table, each with the line that it begins on.

    Args:
        text: The table.
        name: Name of the file in messages.
        column: Column that holds the prompts; None finds it by the usual names.

    Raises:
        UserError: If a row does not fit the columns, or quotes do not close; the message names the line.
    """
    csv.field_size_limit(sys.maxsize)  # the module's limit of 131072 characters is less than a long prompt
    first = text.lstrip().split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(first), strict=True)
    columns: list[str] = []
    begins = 1
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                begins = reader.line_num + 1
                continue
            if not columns:
                columns = _columns(cells, at_line(name, begins), column)
            else:
                yield NumberedRow(begins, at_line(name, begins), _row(columns, cells, at_line(name, begins)))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{at_line(name, begins)}: not a row of a table: {error}", FIX) from error


def _columns(cells: list[str], place: str, column: str | None) -> list[str]:
    """Names of the columns; those that rows of JSON have too are written as there."""
    known = {*NAMES, *REFERENCES}
    columns = [cell.strip() for cell in cells]
    columns = [_plain(name) if _plain(name) in known and name != column else name for name in columns]
    if repeated := [name for name in columns if name and columns.count(name) > 1]:
        raise UserError(f"{place}: column {repeated[0]!r} is named twice", "Give every column its own name.")
    if column is None and not TEXT_KEYS.keys() & set(columns):
        usual = [name for name in USUAL if name in columns]
        columns = ["prompt" if [name] == usual[:1] else name for name in columns]
    return columns


def _row(columns: list[str], cells: list[str], place: str) -> dict[str, Any]:
    if len(cells) != len(columns):
        raise UserError(
            f"{place}: the row has {len(cells)} cells, expected {len(columns)}: {', '.join(columns)}", FIX
        )
    return {column: cell or None for column, cell in zip(columns, cells, strict=True) if column}


def _plain(cell: str) -> str:
    return cell.strip().strip('"').lower()


def _separator(line: str) -> str:
    return max(SEPARATORS, key=line.count)
