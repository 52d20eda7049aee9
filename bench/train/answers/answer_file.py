"""The file of answers: whole rows only, appended batch by batch, and the settings they were made with.

A row has the keys ``id``, ``category`` if the prompt has one, ``sampling``, ``ended`` (every answer has its
end token), ``prompt_tokens`` (of the last turn's prompt), ``answer_tokens`` (of all answers, end tokens
included), ``messages`` in OpenAI's format, and ``error`` if a turn was too long.

The settings lie beside the file, in ``<name>.settings.json``. A restart with the same settings goes on where
the file ends; with other settings it is refused, so that a file never holds answers of two models.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.errors import UserError
from bench.records.files import write_text
from bench.records.model import Prompt
from bench.tasks.prompt_files.conversation import USER
from bench.tasks.prompt_files.json_rows import json_lines
from bench.train.same_settings import read_object, require_same_settings

SETTINGS_SUFFIX = ".settings.json"
NAMES_ONLY = ("model",)
"""Settings that are kept for the reader; whether two are equal does not matter."""


class AnswerFile:
    """A file of answers that this process alone may write to.

    Args:
        path: The JSONL file.
        settings: What the answers depend on.

    Attributes:
        done: Of every row in the file, its id and the first message of the user, stripped.

    Raises:
        UserError: If the file was made with other settings, by something else, its settings are damaged, or
            it is being written by another process.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _settle(path, settings)
        self._file = path.open("ab", buffering=0)
        try:
            self._lock()
            self.done = dict(map(_identity, self._whole_rows()))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def missing(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Prompts that have no row yet.

        Raises:
            UserError: If a row of the same id belongs to another prompt.
        """
        for prompt in prompts:
            first = _first_words(prompt)
            if self.done.get(prompt.id, first) != first:
                raise UserError(
                    f"{self.path} holds an answer to another prompt with the id {prompt.id}",
                    "Set another out=FILE for this file of prompts.",
                )
        return [prompt for prompt in prompts if prompt.id not in self.done]

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows in one step and force them to disk."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._file.write(text.encode())
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{self.path} is being written by another process", "Wait for it, or set another out=FILE."
            ) from error

    def _whole_rows(self) -> list[dict[str, Any]]:
        """The rows in the file; what a killed process left of its last row is cut off."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        return [dict(row.fields) for row in json_lines(whole, str(self.path))]


def settings_path(path: Path) -> Path:
    """Where the settings of a file of answers are."""
    return path.with_name(path.name.removesuffix(".jsonl") + SETTINGS_SUFFIX)


def _settle(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings for a new file, or compare them with those of an earlier start."""
    kept = settings_path(path)
    if not kept.is_file():
        if path.exists() and path.stat().st_size:
            raise UserError(
                f"{path} exists, and {kept.name} with its settings does not, so it cannot be continued",
                "Set another out=FILE, or move that file away.",
            )
        return write_text(kept, json.dumps(settings, indent=1) + "\n")
    earlier = read_object(kept, f"Delete {kept.name} and {path.name}, or set another out=FILE.")
    fix = "Set another out=FILE, or repeat the earlier settings."
    return require_same_settings(path, earlier, settings, fix, ignored=NAMES_ONLY)


def _identity(row: Mapping[str, Any]) -> tuple[str, str]:
    messages = row.get("messages", ())
    first = next((message["content"] for message in messages if message["role"] == USER), "")
    return str(row.get("id")), str(first).strip()


def _first_words(prompt: Prompt) -> str:
    """The first message of the user, without the white space that older code did not keep."""
    first = next((message.text for message in prompt.opening if message.role == USER), prompt.turns[0])
    return first.strip()
