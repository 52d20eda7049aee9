"""The text of a file, and its rows of JSON: an object on every line, or one list, or one object.

A row may also be a list of messages, which is a chat; in a list, a text alone is a prompt. A list of messages
and nothing else is one chat.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bench.errors import UserError
from bench.tasks.prompt_files.conversation import TEXT_KEYS
from bench.tasks.prompt_files.faults import EXAMPLE, NumberedRow, RowError, at_line, at_row, kind_of

ROW = "an object, or a list of messages"


def json_lines(content: bytes, name: str) -> Iterator[NumberedRow]:
    """The objects of a JSONL file.

    Args:
        content: The file, not compressed.
        name: Name of the file in messages.

    Raises:
        UserError: If it is not UTF-8, or a line holds no JSON object.
    """
    yield from lines_of(decoded(content, name), name)


def decoded(content: bytes, name: str) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        UserError: If it is not UTF-8; the message names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name}:{line}: not UTF-8 text: {error.reason} at byte {error.start}", "Save the file as UTF-8."
        ) from error


def rows_of_json(text: str, name: str) -> Iterator[NumberedRow]:
    """The rows of a file that holds JSON, in whichever of the forms.

    Raises:
        UserError: If it is not JSON, or a row is none; the message names the line or row.
    """
    begin = text.lstrip()[:1]
    if begin == "[" and (listed := _list(text, name)) is not None:
        yield from _listed(listed, name)
    elif begin == "{" and not _has_lines(text) and (whole := _whole(text)) is not None:
        yield NumberedRow(1, at_row(name, 1), whole)
    else:
        yield from lines_of(text, name)


def _list(text: str, name: str) -> list[Any] | None:
    """The text as one list; None if it has a list on every line.

    Raises:
        UserError: If it is neither.
    """
    try:
        whole: list[Any] = json.loads(text)
    except RecursionError as error:
        raise UserError(f"{name}: not JSON that can be read: {error}", EXAMPLE) from error
    except ValueError as error:
        if _has_lines(text):
            return None
        raise UserError(f"{name} is not JSON: {error}", EXAMPLE) from error
    return whole


def lines_of(text: str, name: str) -> Iterator[NumberedRow]:
    """The rows of a text with JSON on every line; empty lines are passed over."""
    # not splitlines(), which would also split at U+2028 inside a JSON string
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = at_line(name, number)
            try:
                yield NumberedRow(number, place, _object(_parsed(line)))
            except RowError as error:
                raise UserError(f"{place}: {error}", EXAMPLE) from error


def _listed(whole: list[Any], name: str) -> Iterator[NumberedRow]:
    rows: list[Any] = [whole] if _is_chat(whole) else whole
    for number, row in enumerate(rows, start=1):
        place = at_row(name, number)
        try:
            yield NumberedRow(number, place, {"prompt": row} if isinstance(row, str) else _object(row))
        except RowError as error:
            raise UserError(f"{place}: {error}", EXAMPLE) from error


def _has_lines(text: str) -> bool:
    """Whether the first line is JSON by itself."""
    try:
        json.loads(text.lstrip().split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return True


def _whole(text: str) -> dict[str, Any] | None:
    """The text as one object, which may extend over lines; None if it is none."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return whole if isinstance(whole, dict) else None


def _parsed(line: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise RowError(f"not JSON: {error.msg} at column {error.colno}; expected {ROW}") from error
    except (RecursionError, ValueError) as error:
        raise RowError(f"not JSON that can be read: {error}") from error


def _object(value: object) -> Mapping[str, Any]:
    if isinstance(value, list) and _is_chat(value):
        return {"conversations" if "from" in value[0] else "messages": value}
    if not isinstance(value, dict):
        raise RowError(f"must be a JSON object, got {kind_of(value)}")
    return value


def _is_chat(items: list[Any]) -> bool:
    """Whether a list holds messages, and no rows."""
    return bool(items) and all(
        isinstance(item, dict) and ("role" in item or "from" in item) and not TEXT_KEYS.keys() & item.keys()
        for item in items
    )
