"""One row of a question file as a prompt, with the specs that say which answers are right.

A row has its text under exactly one of ``prompt``, ``question``, ``turns``, ``instruction`` (then also
``input`` or ``context``) or ``messages`` (of the user, after at most one of the system). Optional keys are
``id`` (or ``question_id``, ``task_id``), ``subtask`` (or ``category``), ``system`` (the system message),
``references`` (or ``reference``) and ``checks`` (one per turn, see `bench.tasks.checkers`). Other keys are
ignored.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from bench.records.model import Prompt

SURROGATE = re.compile("[\ud800-\udfff]")  # JSON allows half a pair, no tokenizer does
ID_KEYS = ("id", "question_id", "task_id")
SUBTASK_KEYS = ("subtask", "category")
REFERENCE_KEYS = ("references", "reference")
FORMS = ("prose", "sentence", "list", "email", "free")
"""What a check spec may ask of an answer's form."""


class RowError(ValueError):
    """The fault of one line; the caller adds the file and the line number."""


def read_prompt(row: Mapping[str, Any], number: int) -> Prompt:
    """The prompt of one row.

    Args:
        row: The row.
        number: Of its line; the id of a row that has none.

    Raises:
        RowError: If the row is malformed.
    """
    turns = _turns(row)
    return Prompt(
        id=_label(row, ID_KEYS) or str(number),
        subtask=_label(row, SUBTASK_KEYS),
        turns=turns,
        references=_references(row, len(turns)),
        checks=_checks(row, len(turns)),
        system=_system(row),
    )


def _turns(row: Mapping[str, Any]) -> tuple[str, ...]:
    present = [key for key in READERS if row.get(key) is not None]
    if not present:
        raise RowError(f"no text; need one of {', '.join(READERS)}, got keys {', '.join(row) or 'none'}")
    if len(present) > 1:
        raise RowError(f"the text is ambiguous: keep one of {', '.join(present)}")
    turns = tuple(READERS[present[0]](row))
    for place, turn in enumerate(turns, start=1):
        if not isinstance(turn, str):
            raise RowError(f"{present[0]}: turn {place} must be text, got {kind_of(turn)}")
        if not turn.strip():
            raise RowError(f"{present[0]}: turn {place} is empty")
        _require_whole(turn, f"{present[0]}: turn {place}")
    if not turns:
        raise RowError(f"{present[0]} is empty")
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
            raise RowError(f"messages: message {place} must be an object, got {kind_of(message)}")
        role = message.get("role")
        if role != "user" and not (place == 1 and role == "system"):
            raise RowError(
                f"messages: message {place} must have role 'user' (the first may be 'system'), got {role!r}"
            )
    return [message.get("content") for message in messages if message["role"] == "user"]


def _system(row: Mapping[str, Any]) -> str:
    """The row's system message, from its own key or the first of its messages; empty if it has none."""
    messages = row.get("messages") or [{}]
    given = [row.get("system"), messages[0].get("content") if messages[0].get("role") == "system" else None]
    texts = [text for text in given if text is not None]
    if len(texts) > 1:
        raise RowError("the system message is ambiguous: keep 'system' or the message with role 'system'")
    if not texts:
        return ""
    if not isinstance(texts[0], str) or not texts[0].strip():
        raise RowError(f"system must be text, got {kind_of(texts[0]) if texts[0] else 'an empty one'}")
    return _require_whole(texts[0], "system")


def _require_whole(text: str, key: str) -> str:
    """The text, if every surrogate pair in it is whole."""
    if SURROGATE.search(text):
        raise RowError(f"{key} holds half of a surrogate pair")
    return text


def _references(row: Mapping[str, Any], turns: int) -> tuple[str, ...]:
    value = _first(row, REFERENCE_KEYS)
    references = [value] if isinstance(value, str) else _list(value, "references")
    if references and len(references) != turns:
        raise RowError(f"references must number one per turn ({turns}), got {len(references)}")
    return tuple(map(_reference, references))


def _reference(value: object) -> str:
    """A turn's reference; a list of short answers, as in Spec-Bench's rag, becomes one answer per line."""
    listed: list[object] = value if isinstance(value, list) else [value]
    parts = [part for part in listed if isinstance(part, str)]
    if len(parts) != len(listed):
        raise RowError("references must be texts, or lists of texts")
    return _require_whole("\n".join(parts), "references")


def _checks(row: Mapping[str, Any], turns: int) -> tuple[Mapping[str, Any], ...]:
    checks = _list(row.get("checks"), "checks")
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
    return _require_whole(str(value), keys[0])


def _first(row: Mapping[str, Any], keys: tuple[str, ...]) -> object:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _list(value: object, key: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError(f"{key} must be a list, got {kind_of(value)}")
    return value


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


READERS: Mapping[str, Callable[[Mapping[str, Any]], list[Any]]] = {
    "turns": lambda row: _list(row["turns"], "turns"),
    "prompt": lambda row: [row["prompt"]],
    "question": lambda row: [row["question"]],
    "instruction": _from_instruction,
    "messages": _from_messages,
}


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
