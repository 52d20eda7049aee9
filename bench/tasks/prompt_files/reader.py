"""Files as questions for a model, or rows as conversations: what is asked, and which answers are right.

All user messages of ``turns``, and of a chat in ShareGPT's format, are asked one after the other; the answers
in a ShareGPT file are left out. Of a chat in OpenAI's format the last message of the user, or the last
result of a tool, is answered once; all before it is kept as given. If the chat ends with an answer, that is
left out: the model gives it anew.

Optional keys of a row are ``id`` (or ``question_id``, ``task_id``), ``subtask`` (or ``category``),
``references`` (or ``reference``) and ``checks`` (one per turn, see `bench.tasks.checkers`). Keys that neither
this module nor `bench.tasks.prompt_files.conversation` names are ignored.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from bench.errors import UserError
from bench.records.model import Message, Prompt
from bench.tasks.prompt_files.conversation import (
    ASSISTANT,
    ROLES,
    SYSTEM,
    TOOL,
    USER,
    Conversation,
    Shape,
    read_conversation,
)
from bench.tasks.prompt_files.faults import EXAMPLE, NumberedRow, RowError, require_list, require_whole
from bench.tasks.prompt_files.files import PromptFile, read_rows
from bench.tasks.prompt_files.json_rows import json_lines

ID_KEYS = ("id", "question_id", "task_id")
SUBTASK_KEYS = ("subtask", "category")
REFERENCE_KEYS = ("references", "reference")
FORMS = ("prose", "sentence", "list", "email", "free")
"""What a check spec may ask of an answer's form."""


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


def read_prompt(row: Mapping[str, Any], number: int, column: str | None = None) -> Prompt:
    """The question of one row.

    Args:
        row: The row.
        number: Of its line; the id of a row that has none.
        column: The key that holds the text; None finds it by the usual names.

    Raises:
        RowError: If the row is malformed.
    """
    conversation = read_conversation(row, column)
    if conversation.system is not None and not conversation.system.strip():
        raise RowError("system must be text, got an empty one")
    chat = _until_last(conversation) if conversation.shape is Shape.CHAT else []
    turns = (chat[-1].text,) if chat else _asked(conversation)
    return Prompt(
        id=_label(row, ID_KEYS) or str(number),
        subtask=_label(row, SUBTASK_KEYS),
        turns=turns,
        references=_references(row, len(turns)),
        checks=_checks(row, len(turns)),
        system=conversation.system or "",
        opening=() if chat == [Message(USER, turns[0])] else tuple(chat),
        tools=conversation.tools,
    )


def _asked(conversation: Conversation) -> tuple[str, ...]:
    """The messages of the user, each of which is answered."""
    if conversation.tools:
        raise RowError("tools need a chat in OpenAI's format: write 'messages'")
    for where, message in conversation.named:
        if message.role not in (USER, ASSISTANT):
            raise RowError(f"{where} is of {message.role!r}, expected {_names(USER, ASSISTANT)}")
        if message.role == USER and not message.text.strip():
            raise RowError(f"{where} is empty")
    turns = tuple(message.text for message in conversation.messages if message.role == USER)
    if not turns:
        held = "holds no message of a human" if conversation.messages else "is empty"
        raise RowError(f"{conversation.key} {held}")
    return turns


def _until_last(conversation: Conversation) -> list[Message]:
    """The messages of a chat up to the last one that is to be answered."""
    if not conversation.messages:
        raise RowError(f"{conversation.key} is empty")
    for where, message in conversation.named:
        _require_sound(message, where)
    named = list(conversation.named)
    while named and named[-1][1].role == ASSISTANT:  # the answer, which the model gives anew
        named.pop()
    if not named:
        raise RowError(f"{conversation.key} holds nothing to answer; expected a message with role 'user'")
    if not named[-1][1].text.strip():
        raise RowError(f"{named[-1][0]} is to be answered, and it is empty")
    return [message for _, message in named]


def _require_sound(message: Message, where: str) -> None:
    if message.role == SYSTEM:
        raise RowError(f"{where} has role 'system'; only the first message may have it")
    if message.role not in (USER, ASSISTANT, TOOL):
        raise RowError(f"{where} has role {message.role!r}, expected {_names(SYSTEM, USER, ASSISTANT, TOOL)}")
    if "tool_calls" in message.extra and message.role != ASSISTANT:
        raise RowError(f"{where} has tool_calls, which only role 'assistant' may have")
    if message.role != TOOL and not message.text.strip() and "tool_calls" not in message.extra:
        raise RowError(f"{where} is empty, expected text as its content")


def _names(*roles: str) -> str:
    """What files may call these sides."""
    return "one of " + ", ".join(name for name, role in ROLES.items() if role in roles)


def _references(row: Mapping[str, Any], turns: int) -> tuple[str, ...]:
    value = _first(row, REFERENCE_KEYS)
    references = [value] if isinstance(value, str) else require_list(value, "references")
    if references and len(references) != turns:
        raise RowError(f"references must number one per turn ({turns}), got {len(references)}")
    return tuple(map(_reference, references))


def _reference(value: object) -> str:
    """A turn's reference; a list of short answers, as in Spec-Bench's rag, becomes one answer per line."""
    listed: list[object] = value if isinstance(value, list) else [value]
    parts = [part for part in listed if isinstance(part, str)]
    if len(parts) != len(listed):
        raise RowError("references must be texts, or lists of texts")
    return require_whole("\n".join(parts), "references")


def _checks(row: Mapping[str, Any], turns: int) -> tuple[Mapping[str, Any], ...]:
    checks = require_list(row.get("checks"), "checks")
    if not all(isinstance(check, dict) for check in checks):
        raise RowError("checks must be objects")
    if checks and len(checks) != turns:
        raise RowError(f"checks must number one per turn ({turns}), got {len(checks)}")
    for place, check in enumerate(checks, start=1):
        try:
            _require_valid(check)
        except ValueError as error:
            raise RowError(f"checks: check {place}: {error}") from error
    return tuple(checks)


def _label(row: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The id or subtask of a row as text; empty if it has none."""
    value = _first(row, keys)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise RowError(f"{keys[0]} must be text or a whole number, got {value!r}")
    return require_whole(str(value), keys[0])


def _first(row: Mapping[str, Any], keys: tuple[str, ...]) -> object:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _require_valid(check: Mapping[str, Any]) -> None:
    """Check a spec when it is read, so that a mistake in it shows before anything is decoded.

    Args:
        check: The spec.

    Raises:
        ValueError: Naming the key that is missing or has a value of the wrong kind.
    """
    kind, form = check.get("kind"), check.get("form", "prose")
    if not isinstance(kind, str) or kind not in _NEEDED:
        raise ValueError(f"kind must be one of {', '.join(_NEEDED)}, got {kind!r}")
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    for key, is_valid, wanted in _NEEDED[kind]:
        if key not in check or not is_valid(check[key]):
            raise ValueError(f"{key} must be {wanted}, got {check.get(key)!r}")
    if not _are_texts(check.get("forbid", [])):
        raise ValueError(f"forbid must be a list of texts, got {check['forbid']!r}")
    if not _is_number(check.get("min_overlap", 1)):
        raise ValueError(f"min_overlap must be a number, got {check['min_overlap']!r}")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _is_number(value: object) -> bool:
    """A finite number, or the text of one."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    try:
        return Decimal(str(value)).is_finite()
    except ArithmeticError:
        return False


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_groups(value: object) -> bool:
    return isinstance(value, list | tuple) and all(_are_texts(group) for group in value)


_NEEDED: Mapping[str, Sequence[tuple[str, Callable[[object], bool], str]]] = {
    "open": (),
    "contains": (("facts", _are_texts, "a list of texts"),),
    "number": (("value", _is_whole, "a whole number"),),
    "reference": (("text", _is_text, "text"),),
    "mentions": (("groups", _are_groups, "a list of lists of texts"),),
    "last_number": (("value", _is_number, "a number"),),
    "boxed": (("value", _is_text, "text"),),
    "choice": (("value", _is_text, "text"),),
}
"""By kind: the keys that a spec must have, with what their values must be."""
