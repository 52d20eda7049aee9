"""Reads prompts for the model to answer: turns, OpenAI's messages, ShareGPT's conversations, plain text.

Of a row with ``turns`` (or another key of `bench.tasks.question_rows`) and of a conversation in ShareGPT's
format, all turns of the user are answered one after the other; the answers in ShareGPT's file are left out.
Of messages in OpenAI's format, the last turn of the user is answered; the messages before it are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.tasks.question_rows import ID_KEYS, READERS, SUBTASK_KEYS
from bench.tasks.rows import PARQUET_MAGIC, read_rows
from bench.tasks.task import json_rows, parse_row, read_content
from bench.train.data.conversations import MODEL, SYSTEM, USER

KEY = "prompts"
"""The setting that names the file, for messages."""
EXPECTED = (
    'Write one JSON object per line: {"turns": ["Hi"]}, {"messages": [{"role": "user", "content": "Hi"}]} or '
    '{"conversations": [{"from": "human", "value": "Hi"}]}; or one prompt per line in a file named .txt.'
)
TEXT_SUFFIX = ".txt"
Message = tuple[str, str]
"""Who speaks, and the text."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the model is to answer.

    Args:
        id: Of the row; its line number if it has none.
        category: Empty if the file names none.
        turns: Of the user, to be answered one after the other.
        system: System message; empty if there is none.
        history: Earlier turns with their answers, which are kept.
    """

    id: str
    category: str
    turns: tuple[str, ...]
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()

    @property
    def opening(self) -> str:
        """The first message of the user."""
        return self.history[0][0] if self.history else self.turns[0]


def read_requests(path: str, *, first_only: bool = False) -> list[Request]:
    """Read a file of prompts, plain or gz.

    Args:
        path: JSONL, a JSON list or parquet; with the suffix .txt, plain text with one prompt per line.
        first_only: Of several turns of a user, keep the first.

    Raises:
        UserError: If the file cannot be read or holds no prompt, or a row is malformed; the message names its
            line.
    """
    if Path(path.removesuffix(".gz")).suffix == TEXT_SUFFIX:
        requests = [Request(str(number), "", (line,)) for number, line in _lines(path)]
    else:
        seen: dict[str, int] = {}
        requests = [_request(row, number, path, seen) for number, row in _rows(path)]
    if not requests:
        raise UserError(f"{path} holds no prompts", EXPECTED)
    if first_only:
        return [replace(request, turns=request.turns[:1]) for request in requests]
    return requests


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        text = read_content(path, KEY).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}", EXPECTED
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _rows(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with the number of their line; in a list or in parquet, with their place from 1."""
    content = read_content(path, KEY)
    if content.startswith(PARQUET_MAGIC) or content.lstrip().startswith(b"["):
        yield from enumerate(read_rows(path, KEY)[0], start=1)
        return
    try:
        yield from json_rows(content, path)
    except UserError as error:
        raise UserError(error.what, EXPECTED) from error


def _request(row: Mapping[str, Any], number: int, path: str, seen: dict[str, int]) -> Request:
    try:
        system, history, turns = _parts(row)
    except ValueError as error:
        raise UserError(f"{path}:{number}: {error}", EXPECTED) from error
    labels = {key: row[key] for key in (*ID_KEYS, *SUBTASK_KEYS) if row.get(key) is not None}
    texts = [text for exchange in history for text in exchange]
    checked = parse_row({**labels, "turns": [*texts, *turns]}, number, path, seen)
    return Request(checked.id, checked.subtask, checked.turns[len(texts) :], system, tuple(history))


def _parts(row: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]], list[Any]]:
    """System message, earlier turns with their answers, and the turns to answer.

    Raises:
        ValueError: If the row holds no prompt; the message says what is wrong with it.
    """
    if row.get("conversations") is not None:
        messages = _messages(row["conversations"], "conversations", "from", "value")
        turns = [text for role, text in messages if role in USER]
        if not turns:
            raise ValueError("conversations holds no message of a human")
        return _system(messages), [], turns
    if row.get("messages") is not None:
        return _last_turn(_messages(row["messages"], "messages", "role", "content"))
    present = [key for key in READERS if row.get(key) is not None]
    if len(present) != 1:
        keys = ", ".join([*READERS, "conversations"])
        raise ValueError(f"expected exactly one of {keys}, got keys {', '.join(row) or 'none'}")
    return "", [], list(READERS[present[0]](row))


def _last_turn(messages: Sequence[Message]) -> tuple[str, list[tuple[str, str]], list[Any]]:
    """OpenAI's messages up to the user's last turn, which is the one to answer."""
    spoken = [message for message in messages if message[0] not in SYSTEM]
    while spoken and spoken[-1][0] in MODEL:  # the answer to the last turn, which the model gives anew
        spoken.pop()
    roles = [role in USER for role, _ in spoken]
    if not spoken or roles != [place % 2 == 0 for place in range(len(spoken))]:
        raise ValueError("messages must be of user and assistant in turn, the user first")
    texts = [text for _, text in spoken]
    return _system(messages), list(zip(texts[:-1:2], texts[1::2], strict=True)), texts[-1:]


def _system(messages: Sequence[Message]) -> str:
    places = [place for place, (role, _) in enumerate(messages) if role in SYSTEM]
    if places not in ([], [0]):
        raise ValueError("a system message must be the first message, and the only one of its kind")
    return messages[0][1] if places else ""


def _messages(value: object, key: str, role_key: str, text_key: str) -> list[Message]:
    """Messages of either format; `role_key` and `text_key` are the names for the error message."""
    if not isinstance(value, list):
        raise ValueError(f"{key} must be a list of messages")
    return [
        _message(message, f"{key}: message {place}", role_key, text_key)
        for place, message in enumerate(value, 1)
    ]


def _message(message: object, where: str, role_key: str, text_key: str) -> Message:
    if not isinstance(message, Mapping):
        raise ValueError(f"{where} must be an object with {role_key} and {text_key}")
    role, text = message.get("from") or message.get("role"), message.get("value") or message.get("content")
    if role not in (*USER, *MODEL, *SYSTEM):
        raise ValueError(
            f"{where} has {role_key} {role!r}, expected one of {', '.join((*USER, *MODEL, *SYSTEM))}"
        )
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where} must have text as its {text_key}")
    return str(role), text.strip()
