"""Rows of a data set: from the Hugging Face Hub, from an address, or from local files in its own format.

No downloaded code is run: `datasets` reads parquet and JSON, and refuses repositories that come as a script.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import UserError
from bench.records.files import expanded
from bench.tasks.prompt_files import files as prompt_files
from bench.tasks.prompt_files.files import PromptFile, read_content
from bench.tasks.row_folders import csv_rows, folder_rows

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PublishedRows:
    """Where a data set is published.

    Args:
        dataset: Repository on the Hub; ``json`` reads `files` instead.
        rows: Number of rows in `split`, for plans that are made before anything is fetched.
        split: Split with the questions.
        subset: Configuration of the repository.
        files: Address of a JSON file, also inside an archive: ``zip://inside.jsonl::hf://...``.
        revision: Branch, tag or commit; ``refs/convert/parquet`` where the main branch is a script.
        sha256: Hash of the file as its authors published it, decompressed; a local file with another hash
            counts as changed.
    """

    dataset: str
    rows: int
    split: str = "test"
    subset: str | None = None
    files: str | None = None
    revision: str | None = None
    sha256: str | None = None

    @property
    def location(self) -> str:
        """Name of the data set in records and messages."""
        if self.files is not None:
            return self.files
        return " ".join(part for part in (self.dataset, self.subset) if part)

    def fetch(self, split: str) -> Sequence[Row]:
        """The rows of a split, downloaded into the cache of `datasets` if they are not there yet.

        Raises:
            UserError: If they cannot be fetched.
        """
        from datasets import load_dataset  # takes a second to import

        try:
            rows: Sequence[Row] = load_dataset(
                self.dataset, self.subset, split=split, data_files=self.files, revision=self.revision
            )
        except (OSError, RuntimeError, ValueError) as error:  # all that datasets raises derives from these
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"split {split} of {self.location} could not be fetched: {reason}",
                "Connect (and unset HF_HUB_OFFLINE), or download it yourself and add task.path=FILE.",
            ) from error
        return rows


def read_rows(
    path: str, key: str = "task.path", split: str = "test", subset: str | None = None
) -> tuple[list[Row], str]:
    """The rows of a local file or folder, and the sha256 of what they were read from.

    Args:
        path: JSONL, JSON or CSV, plain or gz, or parquet; or a folder, see `bench.tasks.row_folders`.
        key: The setting that names it, for messages.
        split, subset: Which split and configuration of a folder.

    Raises:
        UserError: If it cannot be read, holds no rows, or a line is malformed; the message names the line.
    """
    if expanded(str(path)).is_dir():
        return folder_rows(expanded(str(path)), split, subset, lambda file: read_rows(file, key))
    if str(path).endswith((".csv", ".csv.gz")):  # columns keep their names, unlike in a file of prompts
        content = read_content(path, key)
        return csv_rows(content, path), hashlib.sha256(content).hexdigest()
    file = prompt_files.read_rows(PromptFile(str(path), key))
    return [row.fields for row in file.rows], file.sha256
