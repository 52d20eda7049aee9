"""The messages of one row: who says what, with the system message and the tools apart.

A row has its text under exactly one key. ``prompt``, ``question`` and ``instruction`` (then also ``input`` or
``context``) hold one message of the user, and ``turns`` a list of them. ``messages`` is a chat in OpenAI's
format: objects of ``role`` and ``content``, where a content is text or a list of parts of type ``text``,
which are joined by a line break. ``conversations`` is a chat in ShareGPT's format: objects of ``from`` and
``value``. White space is kept. ``system`` may hold the system message, and ``tools`` the tools of a chat.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench.records.model import Message
from bench.tasks.prompt_files.faults import RowError, kind_of, require_list, require_whole

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
ROLES: Mapping[str, str] = {
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(("user", "human"), USER),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), ASSISTANT),
    **dict.fromkeys(("tool", "function"), TOOL),
}
"""What files call the sides of a conversation, and what they are called here."""
TEXT_TYPES = ("text", "input_text", "output_text")
"""Types of a content's parts that hold text."""
KEPT = ("name", "tool_calls", "tool_call_id", "reasoning_content")
"""Keys of a message that chat templates read beside its text."""


class Shape(StrEnum):
    """How a row holds its text, which decides what of it is asked."""

    TURNS = "turns"
    """Messages of the user alone."""
    CHAT = "messages"
    """OpenAI's format."""
    SHAREGPT = "conversations"
    """ShareGPT's format."""


_KEYS: Mapping[Shape, tuple[str, str]] = {
    Shape.CHAT: ("role", "content"),
    Shape.SHAREGPT: ("from", "value"),
}
"""What a message's side and text are called, by shape."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one row says.

    Args:
        key: The row's key that holds the text, for messages.
        shape: How it holds it.
        messages: In order, without the system message at the start. Texts may be empty, and a role that is
            not among `ROLES` is kept as it is.
        system: The system message; None if there is none, empty if an empty one is given.
        tools: Descriptions of tools.
        start: Number of the first of `messages` in the row.
    """

    key: str
    shape: Shape
    messages: tuple[Message, ...]
    system: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    start: int = 1

    @property
    def named(self) -> Iterator[tuple[str, Message]]:
        """The messages, each with what an error calls it."""
        unit = "turn" if self.shape is Shape.TURNS else "message"
        for place, message in enumerate(self.messages, start=self.start):
            yield f"{self.key}: {unit} {place}", message


def read_conversation(row: Mapping[str, Any], column: str | None = None) -> Conversation:
    """The conversation of one row.

    Args:
        row: The row.
        column: The key that holds the text; None finds it by the usual names.

    Raises:
        RowError: If the row holds no text or several, or what it holds is malformed.
    """
    key = _text_key(row) if column is None else column
    if column is not None and row.get(column) is None:
        raise RowError(f"no text in {column!r}; the row has {', '.join(map(str, row)) or 'no keys'}")
    value = _instruction(row) if key == "instruction" and column is None else row[key]
    shape = _shape(key, value)
    if shape is Shape.TURNS:
        messages = _turns(value, key)
    else:
        items = require_list(value, key)
        messages = tuple(_message(item, f"{key}: message {n}", shape) for n, item in enumerate(items, 1))
    own = messages[0].text if messages and messages[0].role == SYSTEM else None
    tools = require_list(row.get("tools"), "tools")
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise RowError("tools must be a list of objects in OpenAI's format")
    start = 0 if own is None else 1
    return Conversation(key, shape, messages[start:], _system(row, own), tuple(tools), start + 1)


def _text_key(row: Mapping[str, Any]) -> str:
    present = [key for key in TEXT_KEYS if row.get(key) is not None]
    if len(present) > 1:
        raise RowError(f"the text is ambiguous: keep one of {', '.join(present)}")
    if present:
        return present[0]
    if empty := [key for key in TEXT_KEYS if key in row]:
        raise RowError(f"no text; {', '.join(empty)} must hold some, got nothing")
    keys = ", ".join(map(str, row)) or "none"
    raise RowError(f"no text; need one of {', '.join(TEXT_KEYS)}, got keys {keys}")


def _shape(key: str, value: object) -> Shape:
    """By the name of the key; under another name, by what the key holds."""
    if key in TEXT_KEYS:
        return TEXT_KEYS[key]
    first = value[0] if isinstance(value, list) and value else None
    if not isinstance(first, Mapping):
        return Shape.TURNS
    return Shape.SHAREGPT if "from" in first else Shape.CHAT


def _turns(value: object, key: str) -> tuple[Message, ...]:
    is_listed = key == "turns" or (key not in TEXT_KEYS and isinstance(value, list))
    texts = require_list(value, key) if is_listed else [value]
    for place, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise RowError(f"{key}: turn {place} must be text, got {kind_of(text)}")
        require_whole(text, f"{key}: turn {place}")
    return tuple(Message(USER, str(text)) for text in texts)


def _instruction(row: Mapping[str, Any]) -> object:
    """The instruction, then the text it is about, which Alpaca and Dolly keep under another key."""
    parts = [row["instruction"], *(row.get(key) for key in ("input", "context"))]
    if wrong := [part for part in parts if part is not None and not isinstance(part, str)]:
        return wrong[0]
    return "\n\n".join(part for part in parts if part)


def _message(item: object, where: str, shape: Shape) -> Message:
    role_key, text_key = _KEYS[shape]
    if not isinstance(item, Mapping):
        raise RowError(f"{where} must be an object with {role_key} and {text_key}, got {kind_of(item)}")
    role = _either(item, role_key, "role", "from")
    if not isinstance(role, str):
        raise RowError(f"{where} must have text as its {role_key}, got {kind_of(role)}")
    if item.get("function_call") is not None:
        raise RowError(f"{where} has function_call, which chat templates do not read; write tool_calls")
    extra = {key: item[key] for key in KEPT if item.get(key) is not None}
    if "tool_calls" in extra:
        extra["tool_calls"] = _calls(extra["tool_calls"], f"{where}: tool_calls")
        if not extra["tool_calls"]:
            del extra["tool_calls"]
    text = _text(_either(item, text_key, "content", "value"), f"{where}: {text_key}")
    return Message(ROLES.get(role, role), require_whole(text, where), extra)


def _either(item: Mapping[str, Any], *keys: str) -> object:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _text(content: object, where: str) -> str:
    """The text of a content: text, parts of type text, or nothing."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise RowError(f"{where} must be text or a list of parts of type text, got {kind_of(content)}")
    return "\n".join(_part(part, f"{where}: part {place}") for place, part in enumerate(content, start=1))


def _part(part: object, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise RowError(f"{where} must be text or an object of type text, got {kind_of(part)}")
    if part.get("type", "text") not in TEXT_TYPES:
        raise RowError(f"{where} has type {part.get('type')!r}; only parts of type text can be asked")
    if not isinstance(part.get("text"), str):
        raise RowError(f"{where} must have text as its text, got {kind_of(part.get('text'))}")
    return str(part["text"])


def _calls(calls: object, where: str) -> list[Any]:
    """Tool calls whose arguments are objects, as chat templates expect; OpenAI's API writes them as text."""
    read = []
    for place, call in enumerate(require_list(calls, where), start=1):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise RowError(f"{where}: call {place} must be an object with a function")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError as error:
                raise RowError(f"{where}: call {place} has arguments that are no JSON: {error}") from error
        read.append({**call, "function": {**function, "arguments": arguments}})
    return read


def _system(row: Mapping[str, Any], own: str | None) -> str | None:
    """The system message, from the row's own key or the first of its messages."""
    given = row.get("system")
    if given is None:
        return own
    if own is not None:
        raise RowError("the system message is ambiguous: keep 'system' or the message with role 'system'")
    if not isinstance(given, str):
        raise RowError(f"system must be text, got {kind_of(given)}")
    return require_whole(given, "system")


TEXT_KEYS: Mapping[str, Shape] = {
    **dict.fromkeys(("turns", "prompt", "question", "instruction"), Shape.TURNS),
    "messages": Shape.CHAT,
    "conversations": Shape.SHAREGPT,
}
"""The keys that a row's text may stand under, and the shape of each."""
