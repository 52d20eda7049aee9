"""Prompts from a JSONL file: one format for the built-in, the official and the user's own questions.

A line is an object with its text under exactly one of ``prompt``, ``question``, ``turns``, ``instruction``
(then also ``input`` or ``context``) or ``messages`` (of the user, after at most one of the system). Optional
keys are ``id`` (or ``question_id``, ``task_id``), ``subtask`` (or ``category``), ``system`` (the system
message), ``references`` (or ``reference``) and ``checks`` (one per turn, read by `bench.tasks.checkers`).
Other keys are ignored. A gz file is recognised by its content, not by its name.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records.files import expanded
from bench.records.model import Prompt
from bench.tasks.question_rows import RowError, kind_of, read_prompt
from bench.tasks.task import LoadedTask, SourceName, TaskSource, check_selection, select

EXAMPLE = 'Write one JSON object per line, such as {"id": "q1", "prompt": "Why is the sky blue?"}.'
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """The questions of one file; `Prompt.subtask` is empty if the file names none."""

    prompts: tuple[Prompt, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class JsonlTask:
    """The user's own prompts: ``task=jsonl task.path=my.jsonl``.

    Args:
        name: Name of the task, and the subtask of lines that name none.
        path: JSONL file, plain or gz.
        limit: Number of prompts to run, spread evenly over subtasks; None runs all.
        ids: Ids of the prompts to run.
    """

    name: str
    path: str | None = None
    limit: int | None = None
    ids: list[str | int] | None = None

    def __post_init__(self) -> None:
        check_selection(self.limit, self.ids)
        if self.path is None:
            raise UserError(f"task={self.name} needs a file of prompts", "Add task.path=my.jsonl.")

    def load(self) -> LoadedTask:
        """Read the file.

        Raises:
            UserError: If the file cannot be read, or an id is unknown.
        """
        file = read_questions(str(self.path))
        prompts = [replace(prompt, subtask=prompt.subtask or self.name) for prompt in file.prompts]
        chosen = select(prompts, self.limit, self.ids)
        partial = len(chosen) < len(prompts)
        source = TaskSource(SourceName.OWN, str(self.path), file.sha256, len(chosen), partial)
        return LoadedTask(chosen, source)


def read_questions(path: str | Path) -> QuestionFile:
    """Read a question file, plain or gz.

    Raises:
        UserError: If it cannot be read or a line is malformed; the message names the line.
    """
    return parse_questions(read_content(path), str(path))


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


def parse_questions(content: bytes, name: str) -> QuestionFile:
    """Parse the content of a question file.

    Args:
        content: The file, not compressed.
        name: Name of the file in messages.

    Raises:
        UserError: If it is empty, not UTF-8, or a line is malformed.
    """
    seen: dict[str, int] = {}
    prompts = [parse_row(row, number, name, seen) for number, row in json_rows(content, name)]
    if not prompts:
        raise UserError(f"{name} holds no prompts", EXAMPLE)
    return QuestionFile(tuple(prompts), hashlib.sha256(content).hexdigest())


def json_rows(content: bytes, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file, each with the number of its line.

    Args:
        content: The file, not compressed.
        name: Name of the file in messages.

    Raises:
        UserError: If it is not UTF-8, or a line holds no JSON object.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}", EXAMPLE) from error
    # not splitlines(), which would also split at U+2028 inside a JSON string
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, _object(line)
            except RowError as error:
                raise UserError(f"{name}:{number}: {error}", EXAMPLE) from error


def parse_row(row: Mapping[str, Any], number: int, name: str, seen: dict[str, int]) -> Prompt:
    """The prompt of one row.

    Args:
        row: The row.
        number: Of its line; the id of a row that has none.
        name: Name of the file in messages.
        seen: Lines by the ids used so far; this row's id is added.

    Raises:
        UserError: If the row is malformed, or its id was used before.
    """
    try:
        prompt = read_prompt(row, number)
    except RowError as error:
        raise UserError(f"{name}:{number}: {error}", EXAMPLE) from error
    if prompt.id in seen:
        what = f"{name}:{number}: id {prompt.id!r} was used in line {seen[prompt.id]} already"
        raise UserError(what, "Give every line its own id, or drop the ids to number the lines.")
    seen[prompt.id] = number
    return prompt


def _object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RowError(f"not JSON: {error.msg} at column {error.colno}") from error
    except (RecursionError, ValueError) as error:
        raise RowError(f"not JSON that can be read: {error}") from error
    if not isinstance(row, dict):
        raise RowError(f"must be a JSON object, got {kind_of(row)}")
    return row
