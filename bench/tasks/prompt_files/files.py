"""A file or folder as numbered rows: what it is shows in its content, and for plain text in its name.

Rows are lines of JSON, elements of a JSON list, rows of CSV, TSV, parquet or of a folder that Hugging Face's
`datasets` has saved, or the lines of plain text (a file named .txt). A file is plain or gz.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records.files import expanded
from bench.tasks.prompt_files.faults import NumberedRow, at_line, at_row
from bench.tasks.prompt_files.json_rows import decoded, rows_of_json
from bench.tasks.prompt_files.tables import SUFFIXES as TABLE_SUFFIXES
from bench.tasks.prompt_files.tables import has_header, table_rows

GZIP_MAGIC = b"\x1f\x8b"
PARQUET_MAGIC = b"PAR1"
TEXT_SUFFIX = ".txt"
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
SPLITS_FILE, STATE_FILE = "dataset_dict.json", "state.json"
"""Files that `datasets` writes into a folder of several splits, and into that of one."""


class Format(StrEnum):
    """How a file is read."""

    AUTO = "auto"
    """By its content; a file named .txt holds a prompt per line."""
    TABLE = "table"
    """CSV or TSV."""
    LINES = "lines"
    """Plain text, a prompt per line."""
    WHOLE = "whole"
    """Plain text that is one prompt."""


def require_format(key: str, name: str | None) -> None:
    """Refuse a name that is no format; None passes.

    Raises:
        UserError: If it is none.
    """
    if name is not None and name not in list(Format):
        options = ", ".join(Format)
        raise UserError(f"{key} must be one of {options}, got {name!r}", f"Use {key}={Format.AUTO}.")


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A file of prompts or conversations, as the user names it.

    Args:
        path: The file or folder.
        key: The setting that names it, for messages.
        format: How it is read.
        column: The key or column that holds the text; None finds it by the usual names.
        has_settings: Whether `format` and `column` are settings of the command, which messages then advise.
    """

    path: str
    key: str = "task.path"
    format: Format = Format.AUTO
    column: str | None = None
    has_settings: bool = False

    def setting(self, name: str) -> str:
        """The full name of a setting that stands beside `key`."""
        return f"{self.key.rpartition('.')[0]}.{name}".lstrip(".")


@dataclass(frozen=True, slots=True)
class RowFile:
    """The rows of a file, and the sha256 of its content; of a folder, that of its rows."""

    rows: tuple[NumberedRow, ...]
    sha256: str


def read_rows(file: PromptFile) -> RowFile:
    """The rows of a file or folder.

    Raises:
        UserError: If it cannot be read or recognised, holds no rows, or a row is malformed; the message names
            its line or row.
    """
    folder = expanded(file.path)
    if folder.is_dir() and any((folder / name).is_file() for name in (SPLITS_FILE, STATE_FILE)):
        rows = tuple(_saved_rows(folder, file))
        digest = hashlib.sha256()
        for row in rows:
            digest.update(json.dumps(row.fields, sort_keys=True, default=str).encode())
        sha256 = digest.hexdigest()
    else:
        content = read_content(file.path, file.key)
        rows, sha256 = tuple(_rows(content, file)), hashlib.sha256(content).hexdigest()
    if not rows:
        raise UserError(f"{file.path} holds no prompts", "Give a file with one JSON object per line.")
    return RowFile(rows, sha256)


def read_content(path: str | Path, key: str = "task.path") -> bytes:
    """The bytes of a file, decompressed if it is a gz file.

    Args:
        path: The file, as the user typed it.
        key: The setting that names it, for messages.

    Raises:
        UserError: If there is no such file, it is no regular one, unreadable, or broken gz.
    """
    file = expanded(str(path))  # yaml reads task.path=2024 as a number
    if file.is_dir():
        raise UserError(f"{key}={path} is a directory", "Name the file inside it.")
    try:
        if file.exists() and not file.is_file():  # reading a pipe or a device may never end
            raise UserError(f"{key}={path} is not a regular file", "Write its content to a file first.")
        raw = file.read_bytes()
        return gzip.decompress(raw) if raw.startswith(GZIP_MAGIC) else raw
    except FileNotFoundError as error:
        where = f"{Path.cwd()}" if not file.is_absolute() else "the whole path"
        raise UserError(f"{key}={path}: no such file", f"Check the name; looked in {where}.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is a broken gz file: {error}", "Compress it again or unpack it.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "Check its permissions.") from error


def _rows(content: bytes, file: PromptFile) -> Iterator[NumberedRow]:
    if content.startswith(PARQUET_MAGIC):
        return _parquet_rows(content, file.path)
    text = decoded(content, file.path)
    kind = _recognised(text, file) if file.format is Format.AUTO else file.format
    if kind is Format.LINES:
        return _text_lines(text, file.path)
    if kind is Format.WHOLE:
        return iter([NumberedRow(1, file.path, {"prompt": text.removesuffix("\n").removesuffix("\r")})])
    if kind is Format.TABLE:
        return table_rows(text, file.path, file.column)
    return rows_of_json(text, file.path)


def _recognised(text: str, file: PromptFile) -> Format | None:
    """How to read a text; None is JSON."""
    suffix = Path(file.path.removesuffix(".gz")).suffix.lower()
    first = text.lstrip().split("\n", 1)[0]
    if suffix == TEXT_SUFFIX:
        return None if first[:1] in ("{", "[") and _is_json(text, first) else Format.LINES
    if not first or first[0] in "{[" or suffix in JSON_SUFFIXES:
        return None
    if suffix in TABLE_SUFFIXES or has_header(first):
        return Format.TABLE
    fix = "Name the file .txt if it holds a prompt per line, .csv or .tsv if it is a table"
    settings = f", or add {file.setting('format')}=lines, whole or table" if file.has_settings else ""
    raise UserError(
        f"{at_line(file.path, 1)}: expected JSON, or a line with the names of columns, got {first[:40]!r}",
        f"{fix}{settings}.",
    )


def _is_json(text: str, first: str) -> bool:
    """Whether a file named as plain text holds rows of JSON all the same."""
    for candidate in (first, text):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) or (isinstance(value, list) and candidate is text):
            return True
    return False


def _text_lines(text: str, name: str) -> Iterator[NumberedRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield NumberedRow(number, at_line(name, number), {"prompt": line.removesuffix("\r")})


def _parquet_rows(content: bytes, name: str) -> Iterator[NumberedRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Mapping[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    except pyarrow.ArrowException as error:
        raise UserError(f"{name} is a broken parquet file: {error}", "Download it again.") from error
    return (NumberedRow(number, at_row(name, number), row) for number, row in enumerate(rows, start=1))


def _saved_rows(folder: Path, file: PromptFile) -> Iterator[NumberedRow]:
    """Rows of a folder that ``Dataset.save_to_disk`` wrote; of several splits the user names one."""
    from datasets import DatasetDict, load_from_disk  # takes a second to import

    try:
        saved = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{file.path} is a broken folder of datasets: {reason}", "Save it again.") from error
    if isinstance(saved, DatasetDict):
        if len(saved) != 1:
            names = ", ".join(saved)
            raise UserError(
                f"{file.path} holds several splits: {names}",
                f"Name one of them: {file.key}={Path(file.path) / next(iter(saved), 'SPLIT')}.",
            )
        saved = next(iter(saved.values()))
    return (NumberedRow(n, at_row(file.path, n), row) for n, row in enumerate(saved.with_format(None), 1))
