"""Rows of a folder: what ``Dataset.save_to_disk`` of the `datasets` library wrote, or a repository's copy.

Of a copy, the files count whose path names the configuration, such as ``sanitized`` or ``gpqa_diamond``, and
of these the ones whose name holds the split, such as ``test-00000-of-00001.parquet``. Where no path or name
does, all of them count. Code in a folder is never run.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError

Rows = list[Mapping[str, Any]]
SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".jsonl.gz", ".json.gz")
_NOT_ROWS = ("dataset_info.json", "state.json", "dataset_infos.json", "dataset_dict.json")


def folder_rows(
    folder: Path, split: str, subset: str | None, read: Callable[[str], tuple[Rows, str]]
) -> tuple[Rows, str]:
    """The rows of a folder, and a hash of the files they come from.

    Args:
        folder: The folder.
        split: Which split, where it has several.
        subset: Which configuration, where it has several; None takes all.
        read: Reads one file; its rows and its SHA-256.

    Raises:
        UserError: If it holds no rows, or a file is damaged.
    """
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _saved_rows(folder, split)
    files = _files(folder, split, subset)
    parts = [read(str(file)) for file in files]
    digest = hashlib.sha256("".join(sha256 for _, sha256 in parts).encode())
    rows = [row for part, _ in parts for row in part]
    return rows, parts[0][1] if len(parts) == 1 else digest.hexdigest()


def csv_rows(content: bytes, path: str) -> Rows:
    """The rows of a CSV file with a header.

    Raises:
        UserError: If it is not UTF-8, or a row is longer than the header.
    """
    try:
        rows: Rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file that can be read: {error}", "Save it as UTF-8.") from error
    if any(None in row for row in rows):
        raise UserError(
            f"{path} has a row with more fields than its header", "Quote fields that hold commas."
        )
    return rows


def _files(folder: Path, split: str, subset: str | None) -> Sequence[Path]:
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name.endswith(SUFFIXES) and path.name not in _NOT_ROWS
    )
    if not found:
        raise UserError(
            f"task.path={folder} holds no rows",
            f"Give a folder with files that end in {', '.join(SUFFIXES)}.",
        )
    if subset is not None:
        found = [path for path in found if subset in path.relative_to(folder).as_posix()] or found
    named = [path for path in found if split in path.name]
    kinds = {path.name.removesuffix(".gz").rpartition(".")[2] for path in named or found}
    if len(kinds) > 1:
        raise UserError(
            f"task.path={folder} holds rows as {' and '.join(sorted(kinds))}", "Name one of its files."
        )
    return named or found


def _saved_rows(folder: Path, split: str) -> tuple[Rows, str]:
    from datasets import DatasetDict, load_from_disk  # takes a second to import

    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"task.path={folder} cannot be read: {error}", "Save it again with save_to_disk."
        ) from error
    if isinstance(loaded, DatasetDict):
        if split not in loaded:
            raise UserError(
                f"task.path={folder} has no split {split!r}, only {', '.join(loaded)}",
                "Name the folder of one split.",
            )
        loaded = loaded[split]
    digest = hashlib.sha256()
    for part in loaded.cache_files:
        digest.update(Path(part["filename"]).read_bytes())
    return list(loaded), digest.hexdigest()
