"""A task: its prompts, read from a JSONL file, and how `limit` and `ids` choose among them.

A file is plain or gz, which its content tells, and has an object on every line: `bench.tasks.question_rows`
describes the keys. The built-in, the official and the user's own questions have this one format.

`task.limit=n` spreads n prompts evenly over the subtasks and over each subtask's questions. A larger limit
includes all prompts of a smaller one, so a longer run extends a short one. The choice does not depend on a
seed.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import gcd
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bench.errors import UserError, nearest
from bench.records.files import expanded
from bench.records.model import Prompt
from bench.tasks.question_rows import RowError, kind_of, read_prompt

EXAMPLE = 'Write one JSON object per line, such as {"id": "q1", "prompt": "Why is the sky blue?"}.'
GZIP_MAGIC = b"\x1f\x8b"
GOLDEN_RATIO = 0.6180339887498949


class SourceName(StrEnum):
    """Kind of question file; tables show it, since results on different questions cannot be compared."""

    OFFICIAL = "official"
    """Spec-Bench's question file, byte for byte."""
    MODIFIED = "modified"
    """A file given with ``task.path`` whose content differs from Spec-Bench's."""
    BUILTIN = "builtin"
    """The questions shipped for the embedded model."""
    NATURAL = "natural"
    """The questions shipped for all other models, in everyday language."""
    PUBLISHED = "published"
    """A data set of another paper: downloaded from where it is published, or a byte-identical local file."""
    OWN = "jsonl"
    """The user's own prompts."""


@dataclass(frozen=True, slots=True)
class TaskSource:
    """Where a task's prompts came from.

    Args:
        name: Kind of source.
        location: URL, path inside this package, or the path as the user typed it.
        sha256: Hash of the file's content, decompressed where it was a gz file.
        n: Number of prompts chosen.
        partial: Whether `limit` or `ids` left out prompts of the chosen subtasks.
    """

    name: SourceName
    location: str
    sha256: str
    n: int
    partial: bool


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """Chosen prompts in file order, and their source."""

    prompts: tuple[Prompt, ...]
    source: TaskSource


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """The questions of one file; `Prompt.subtask` is empty if the file names none."""

    prompts: tuple[Prompt, ...]
    sha256: str


class Task(Protocol):
    """Settings of a task; constructor parameters are the keys of its yaml."""

    @property
    def name(self) -> str:
        """Name on the command line: ``task=<name>``."""

    def load(self) -> LoadedTask:
        """Read, check and choose the prompts.

        Raises:
            bench.errors.UserError: If the file cannot be read or a setting is invalid.
        """


@runtime_checkable
class Fetched(Protocol):
    """A task whose prompts may have to be downloaded; a plan needs their number before that."""

    def unfetched_turns(self) -> int | None:
        """Number of turns that its settings imply; None if its prompts need no download."""


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


def suggest(wrong: str, options: Sequence[str]) -> str:
    """A fix line for an unknown name: the most similar option, then a list of at most 12 options."""
    close = nearest(wrong, options)
    shown = ", ".join(options[:12])
    rest = f", and {len(options) - 12} more" if len(options) > 12 else ""
    guess = f"Did you mean {close!r}? " if close else ""
    return f"{guess}Choose from: {shown}{rest}."


def check_selection(limit: object, ids: object) -> None:
    """Check that `limit` is None or a positive integer, and `ids` None or a list.

    Raises:
        UserError: If not.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise UserError(
            f"task.limit must be an integer of at least 1, got {limit!r}",
            "Give a number such as task.limit=10, or task.limit=null for every prompt.",
        )
    if ids is None:
        return
    if isinstance(ids, str) or not isinstance(ids, Sequence) or not ids:
        raise UserError(f"task.ids must be a list of ids, got {ids!r}", "Write 'task.ids=[81,82]'.")


def select(
    prompts: Sequence[Prompt], limit: int | None = None, ids: Sequence[str | int] | None = None
) -> tuple[Prompt, ...]:
    """The prompts named by `ids`, then at most `limit` of them, in file order.

    Raises:
        UserError: If an id is unknown.
    """
    check_selection(limit, ids)
    kept = list(prompts) if ids is None else _by_id(prompts, ids)
    if limit is None or limit >= len(kept):
        return tuple(kept)
    chosen = set(_spread(kept, limit))
    return tuple(prompt for prompt in kept if prompt.id in chosen)


def _by_id(prompts: Sequence[Prompt], ids: Sequence[str | int]) -> list[Prompt]:
    known = [prompt.id for prompt in prompts]
    chosen = {str(name) for name in ids}  # yaml reads task.ids=[81] as numbers
    for name in sorted(chosen - set(known)):
        raise UserError(f"task.ids names {name!r}, which this task does not hold", suggest(name, known))
    return [prompt for prompt in prompts if prompt.id in chosen]


def _spread(prompts: Sequence[Prompt], limit: int) -> list[str]:
    """Ids of `limit` prompts: the first of every subtask, then the second of every subtask, and so on."""
    queues: dict[str, list[str]] = {}
    for prompt in prompts:
        queues.setdefault(prompt.subtask, []).append(prompt.id)
    queues = {subtask: _scattered(ids) for subtask, ids in queues.items()}
    chosen: list[str] = []
    for depth in range(max(len(queue) for queue in queues.values())):
        chosen += [queue[depth] for queue in queues.values() if depth < len(queue)]
    return chosen[:limit]


def _scattered(ids: Sequence[str]) -> list[str]:
    """The ids reordered so that every prefix is spread over the whole list.

    Steps of about the golden ratio of the length visit each place once. Without this the first n questions of
    MT-bench would all be of one kind, for it lists its eight categories one after the other.
    """
    n = len(ids)
    step = max(1, round(n * GOLDEN_RATIO))
    while gcd(step, n) != 1:
        step += 1
    return [ids[i * step % n] for i in range(n)]
