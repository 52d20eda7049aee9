"""Prompts from a JSONL file: one format for the built-in, the official and the user's own questions.

A line is an object with its text under exactly one of ``prompt``, ``question``, ``turns``, ``instruction``
(then also ``input`` or ``context``) or ``messages`` (user messages only). Optional keys are ``id`` (or
``question_id``, ``task_id``), ``subtask`` (or ``category``), ``references`` (or ``reference``) and ``checks``
(one per turn, read by `bench.tasks.checkers`). Other keys are ignored. A gz file is recognised by its
content, not by its name.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records.model import Prompt
from bench.tasks.task import LoadedTask, SourceName, TaskSource, check_selection, select

EXAMPLE = 'Write one JSON object per line, such as {"id": "q1", "prompt": "Why is the sky blue?"}.'
SURROGATE = re.compile("[\ud800-\udfff]")  # JSON allows half a pair, no tokenizer does
GZIP_MAGIC = b"\x1f\x8b"
ID_KEYS = ("id", "question_id", "task_id")
SUBTASK_KEYS = ("subtask", "category")
REFERENCE_KEYS = ("references", "reference")


class _RowError(ValueError):
    """The fault of one line; the caller adds the file and the line number."""


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
        UserError: If there is no such file, it is a directory, unreadable, or broken gz.
    """
    file = Path(str(path)).expanduser()  # yaml reads task.path=2024 as a number
    if file.is_dir():
        raise UserError(f"{key}={path} is a directory", "Name the file inside it.")
    try:
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
            except _RowError as error:
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
        prompt = _prompt(row, number)
    except _RowError as error:
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
        raise _RowError(f"not JSON: {error.msg} at column {error.colno}") from error
    except (RecursionError, ValueError) as error:
        raise _RowError(f"not JSON that can be read: {error}") from error
    if not isinstance(row, dict):
        raise _RowError(f"must be a JSON object, got {_kind(row)}")
    return row


def _prompt(row: Mapping[str, Any], number: int) -> Prompt:
    turns = _turns(row)
    return Prompt(
        id=_label(row, ID_KEYS) or str(number),
        subtask=_label(row, SUBTASK_KEYS),
        turns=turns,
        references=_references(row, len(turns)),
        checks=_checks(row, len(turns)),
    )


def _turns(row: Mapping[str, Any]) -> tuple[str, ...]:
    present = [key for key in READERS if row.get(key) is not None]
    if not present:
        raise _RowError(f"no text; need one of {', '.join(READERS)}, got keys {', '.join(row) or 'none'}")
    if len(present) > 1:
        raise _RowError(f"the text is ambiguous: keep one of {', '.join(present)}")
    turns = tuple(READERS[present[0]](row))
    for place, turn in enumerate(turns, start=1):
        if not isinstance(turn, str):
            raise _RowError(f"{present[0]}: turn {place} must be text, got {_kind(turn)}")
        if not turn.strip():
            raise _RowError(f"{present[0]}: turn {place} is empty")
        if SURROGATE.search(turn):
            raise _RowError(f"{present[0]}: turn {place} holds half of a surrogate pair")
    if not turns:
        raise _RowError(f"{present[0]} is empty")
    return turns


def _from_instruction(row: Mapping[str, Any]) -> list[Any]:
    """The instruction, then the text it is about, which Alpaca and Dolly keep under another key."""
    parts = [row["instruction"], *(row.get(key) for key in ("input", "context"))]
    if wrong := [part for part in parts if part is not None and not isinstance(part, str)]:
        return wrong[:1]
    return ["\n\n".join(part for part in parts if part)]


def _from_messages(row: Mapping[str, Any]) -> list[Any]:
    messages = _list(row["messages"], "messages")
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise _RowError(f"messages: message {place} must be an object, got {_kind(message)}")
        if message.get("role") != "user":
            raise _RowError(f"messages: message {place} must have role 'user', got {message.get('role')!r}")
    return [message.get("content") for message in messages]


def _references(row: Mapping[str, Any], turns: int) -> tuple[str, ...]:
    value = _first(row, REFERENCE_KEYS)
    references = [value] if isinstance(value, str) else _list(value, "references")
    if references and len(references) != turns:
        raise _RowError(f"references must number one per turn ({turns}), got {len(references)}")
    return tuple(map(_reference, references))


def _reference(value: object) -> str:
    """A turn's reference; a list of short answers, as in Spec-Bench's rag, becomes one answer per line."""
    listed: list[object] = value if isinstance(value, list) else [value]
    parts = [part for part in listed if isinstance(part, str)]
    if len(parts) != len(listed):
        raise _RowError("references must be texts, or lists of texts")
    return "\n".join(parts)


def _checks(row: Mapping[str, Any], turns: int) -> tuple[Mapping[str, Any], ...]:
    checks = _list(row.get("checks"), "checks")
    if not all(isinstance(check, dict) for check in checks):
        raise _RowError("checks must be objects")
    if checks and len(checks) != turns:
        raise _RowError(f"checks must number one per turn ({turns}), got {len(checks)}")
    return tuple(checks)


def _label(row: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The id or subtask of a row as text; empty if it has none."""
    value = _first(row, keys)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise _RowError(f"{keys[0]} must be text or a whole number, got {value!r}")
    return str(value)


def _first(row: Mapping[str, Any], keys: tuple[str, ...]) -> object:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _list(value: object, key: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _RowError(f"{key} must be a list, got {_kind(value)}")
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


READERS: Mapping[str, Callable[[Mapping[str, Any]], list[Any]]] = {
    "turns": lambda row: _list(row["turns"], "turns"),
    "prompt": lambda row: [row["prompt"]],
    "question": lambda row: [row["question"]],
    "instruction": _from_instruction,
    "messages": _from_messages,
}
