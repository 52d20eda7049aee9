"""A numbered row, the fault of one, and the words and checks that the messages of such faults share."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SURROGATE = re.compile("[\ud800-\udfff]")  # JSON allows half a pair, no tokenizer does
EXAMPLE = (
    'Write one JSON object per line: {"prompt": "Hi"}, {"turns": ["Hi"]} or '
    '{"messages": [{"role": "user", "content": "Hi"}]}; docs/commands.md lists all formats.'
)


class RowError(ValueError):
    """The fault of one row; the caller adds the file and the line or row."""


@dataclass(frozen=True, slots=True)
class NumberedRow:
    """A row of a file.

    Args:
        number: Its line or, in files without lines, its place from 1.
        place: File and line or row, for messages.
        fields: What it holds.
    """

    number: int
    place: str
    fields: Mapping[str, Any]


def at_line(name: str, number: int) -> str:
    """A line of a file, for messages."""
    return f"{name}:{number}"


def at_row(name: str, number: int) -> str:
    """A row of a file without lines, for messages."""
    return f"{name}, row {number}"


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def require_list(value: object, key: str) -> list[Any]:
    """The value if it is a list; null is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError(f"{key} must be a list, got {kind_of(value)}")
    return value


def require_whole(text: str, key: str) -> str:
    """The text, if every surrogate pair in it is whole."""
    if SURROGATE.search(text):
        raise RowError(f"{key} holds half of a surrogate pair")
    return text
