"""Files as questions with ids, for ``task=jsonl`` and ``bench.train.answers``; or rows as conversations."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.errors import UserError
from bench.records.model import Prompt
from bench.tasks.prompt_files.conversation import Conversation, read_conversation
from bench.tasks.prompt_files.faults import EXAMPLE, NumberedRow, RowError
from bench.tasks.prompt_files.files import PromptFile, read_rows
from bench.tasks.prompt_files.json_rows import json_lines
from bench.tasks.prompt_files.question import read_prompt


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """The questions of one file; `Prompt.subtask` is empty if the file names none."""

    prompts: tuple[Prompt, ...]
    sha256: str


def read_prompts(file: PromptFile) -> QuestionFile:
    """Read a file or folder of prompts in any of the formats.

    Raises:
        UserError: If it cannot be read or a row is malformed; the message names its line or row.
    """
    read = read_rows(file)
    return QuestionFile(_prompts(read.rows, file), read.sha256)


def read_questions(path: str | Path) -> QuestionFile:
    """Read a question file that ``task.path`` names; see `read_prompts`."""
    return read_prompts(PromptFile(str(path)))


def parse_questions(content: bytes, name: str) -> QuestionFile:
    """Parse the content of a JSONL file.

    Args:
        content: The file, not compressed.
        name: Name of the file in messages.

    Raises:
        UserError: If it is empty, not UTF-8, or a line is malformed.
    """
    prompts = _prompts(json_lines(content, name), PromptFile(name))
    if not prompts:
        raise UserError(f"{name} holds no prompts", EXAMPLE)
    return QuestionFile(prompts, hashlib.sha256(content).hexdigest())


def first_turn(prompt: Prompt) -> Prompt:
    """The question with its first turn only, and what belongs to that."""
    references, checks = prompt.references[:1], prompt.checks[:1]
    return replace(prompt, turns=prompt.turns[:1], references=references, checks=checks)


def conversation_of(row: NumberedRow, file: PromptFile | None = None) -> Conversation:
    """The conversation of one row; `file` tells the column, if one is set.

    Raises:
        UserError: If the row is malformed; the message names its line or row.
    """
    try:
        return read_conversation(row.fields, None if file is None else file.column)
    except RowError as error:
        raise _mistake(row, file, error) from error


def _prompts(rows: Iterable[NumberedRow], file: PromptFile) -> tuple[Prompt, ...]:
    places: dict[str, int] = {}
    prompts = []
    for row in rows:
        try:
            prompt = read_prompt(row.fields, row.number, file.column)
        except RowError as error:
            raise _mistake(row, file, error) from error
        if prompt.id in places:
            unit = "line" if row.place.endswith(f":{row.number}") else "row"
            raise UserError(
                f"{row.place}: id {prompt.id!r} was used in {unit} {places[prompt.id]} already",
                "Give every row its own id, or drop the ids to number the rows.",
            )
        places[prompt.id] = row.number
        prompts.append(prompt)
    return tuple(prompts)


def _mistake(row: NumberedRow, file: PromptFile | None, error: RowError) -> UserError:
    advice = f" {file.setting('column')}=NAME names the text's key." if file and file.has_settings else ""
    return UserError(f"{row.place}: {error}", f"{EXAMPLE}{advice}")
