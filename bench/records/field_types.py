"""What every field of a stored record must be, checked when it is read, so that no wrong type surfaces later.

Types are those of JSON, as `json.loads` returns them; a tuple counts as a list. A field that is not named
here may hold anything, and one that is missing is no fault here: the dataclasses say which fields they need.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from operator import countOf
from types import NoneType
from typing import Any

from bench.records.model import Arm, Verdict

Check = tuple[str, Callable[[object], bool]]
"""What a value must be, in words, and whether it is."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST, _MOST_IN_ROUND, _MOST_NUMBER = 2**63, 2**31 - 1, 1e300  # the last is also false for nan


def _is_text(value: object) -> bool:
    """Text that can be written as UTF-8: JSON allows half of a surrogate pair."""
    return isinstance(value, str) and (value.isascii() or not _SURROGATE.search(value))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST_NUMBER


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and _is_number(value) and value >= 0


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _or_null(check: Check) -> Check:
    return f"{check[0]} or null", lambda value: value is None or check[1](value)


def _list_of(words: str, are_valid: Callable[[Sequence[Any]], bool]) -> Check:
    """A list whose values are checked together, since a check a value would take most of the reading time.

    Args:
        words: What each value must be.
        are_valid: Whether all of them are.
    """
    return f"a list, each {words}", lambda value: isinstance(value, list | tuple) and are_valid(value)


def _are_all(kind: type, values: Sequence[Any]) -> bool:
    """Whether every value is of this very type: true is no whole number here."""
    return countOf(map(type, values), kind) == len(values)


def _are_below(most: int, counts: Collection[int]) -> bool:
    return not counts or 0 <= min(counts) <= max(counts) < most


def _are_ids(values: Sequence[Any]) -> bool:
    return _are_all(int, values) and _are_below(_MOST, values)


def _are_round_counts(values: Sequence[Any]) -> bool:
    """Of many rounds, which hold few different numbers."""
    return _are_all(int, values) and _are_below(_MOST_IN_ROUND, set(values))


def _are_seconds(values: Sequence[Any]) -> bool:
    if _are_all(float, values):
        return not values or (min(values) >= 0 and sum(values) < _MOST_NUMBER)  # a nan makes the sum one
    return all(map(_is_seconds, values))


def _are_texts(values: Sequence[Any]) -> bool:
    return _are_all(str, values) and all(map(_is_text, set(values)))


def _are_layers(values: Sequence[Any]) -> bool:
    if _are_all(NoneType, values):
        return True
    return _are_round_counts([value for value in values if value is not None])


def _values(check: Check) -> Check:
    return (
        f"an object, each value {check[0]}",
        lambda value: isinstance(value, dict) and all(map(check[1], value.values())),
    )


def _one_of(names: type[StrEnum]) -> Check:
    return f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in set(names)


TEXT: Check = ("text", _is_text)
COUNT: Check = ("a whole number of at least 0", _is_count)
NUMBER: Check = ("a finite number", _is_number)
SECONDS: Check = ("a finite number of at least 0", _is_seconds)
OBJECT: Check = ("an object", _is_object)
FLAG: Check = ("true or false", _is_flag)
COUNTS: Check = _list_of(COUNT[0], _are_ids)
TEXTS: Check = _list_of(TEXT[0], _are_texts)
ALL_SECONDS: Check = _list_of(SECONDS[0], _are_seconds)
_SMALL_COUNT = f"a whole number from 0 to {_MOST_IN_ROUND - 1}"
ROUND_COUNTS: Check = _list_of(_SMALL_COUNT, _are_round_counts)
LAYERS: Check = _list_of(f"{_SMALL_COUNT} or null", _are_layers)

SAMPLE_TYPES: Mapping[str, Check] = {
    "arm": _one_of(Arm),
    "equivalence.verdict": _one_of(Verdict),
    **dict.fromkeys(("prompt_id", "subtask", "prompt_hash", "text", "method", "after"), TEXT),
    **dict.fromkeys(("turn", "repeat", "order", "prompt_tokens", "attempt", "session"), COUNT),
    **dict.fromkeys(("started_at", "clock_s"), _or_null(NUMBER)),
    **dict.fromkeys(("peak_memory_bytes", "peak_reserved_bytes", "text_tokens"), _or_null(COUNT)),
    "ids": COUNTS,
    "rounds": OBJECT,
    "timing": _or_null(OBJECT),
    "timing.prefill_s": SECONDS,
    "timing.decode_s": SECONDS,
    "timing.phases_s": _values(SECONDS),
    "timing.cpu_s": SECONDS,
    "timing.rounds_s": ALL_SECONDS,
    "equivalence": _or_null(OBJECT),
    "equivalence.first_divergence": _or_null(COUNT),
    "equivalence.margin": NUMBER,
    "equivalence.tie_margin": _or_null(NUMBER),
    "equivalence.rank": _or_null(COUNT),
    "error": _or_null(TEXT),
    "energy_j": _or_null(NUMBER),
    "counts": _values(COUNT),
    "reference_nll": _or_null(NUMBER),
    "is_right": _or_null(FLAG),
}
ROUND_TYPES: Mapping[str, Check] = {
    **dict.fromkeys(("drafted", "accepted", "emitted", "depth"), ROUND_COUNTS),
    "stop": TEXTS,
    "exit_layer": LAYERS,
}
_CURVE = {"rows": COUNTS, "seconds": ALL_SECONDS}
RUN_TYPES: Mapping[str, Check] = {
    **dict.fromkeys(("run_id", "method", "task", "model"), TEXT),
    **dict.fromkeys(("identity", "config", "labels"), OBJECT),
    "methods": _values(OBJECT),
    **dict.fromkeys(("identity.method", "identity.task", "identity.model", "identity.runtime"), OBJECT),
    "identity.method_weights": _or_null(TEXT),
    "identity.task.limit": _or_null(COUNT),
    "identity.task.ids": _or_null(("a list", lambda value: isinstance(value, list))),
    "identity.task.subtasks": _or_null(TEXTS),
    "identity.questions": TEXT,
    "identity.model_weights": TEXT,
    "identity.template": TEXT,
    "identity.sampling": OBJECT,
    **{f"identity.sampling.{name}": SECONDS for name in ("temperature", "top_k", "top_p")},
    "identity.history": TEXT,
    "identity.max_new_tokens": COUNT,
    "identity.seed": COUNT,
    "config.model": OBJECT,
    "labels.exactness": TEXT,
    "labels.prompts": TEXT,
    "labels.tier": TEXT,
    "labels.attention": TEXT,
    "labels.draft cost": _or_null(TEXT),
    "labels.draft parameters": _or_null(COUNT),
    "labels.pass_weights": _or_null(_values(COUNT)),
    **{
        f"labels.{name}": FLAG
        for name in ("partial", "independent re-implementation", "cost only", "random weights")
    },
    "labels.several tokens per row": FLAG,
}
ATTEMPT_TYPES: Mapping[str, Check] = {
    **dict.fromkeys(("device", "dtype", "source", "tier", "attention", "draft_head", "started_utc"), TEXT),
    **dict.fromkeys(("versions", "cpu", "numerics", "missing"), OBJECT),
    "git": _or_null(OBJECT),
    "gpu": _or_null(OBJECT),
    "gpu_shared": _or_null(FLAG),
    "probe": OBJECT,
    "probe.costs": OBJECT,
    "probe.costs.context": COUNT,
    "probe.costs.depth": COUNT,
    "probe.costs.dispatch_s": SECONDS,
    **{f"probe.costs.{curve}": OBJECT for curve in ("passes", "head")},
    **{f"probe.costs.{curve}.{key}": check for curve in ("passes", "head") for key, check in _CURVE.items()},
    "probe.weight_bytes": COUNT,
    "probe.token_bytes": COUNT,
    "probe.read_bytes_per_s": SECONDS,
}


def check_types(record: Mapping[str, Any], types: Mapping[str, Check], place: str) -> None:
    """Check the fields of a record that are there.

    Args:
        record: As read from JSON.
        types: By the field's path, with dots between the keys.
        place: What stands before a path in messages.

    Raises:
        TypeError: Naming the first field of a wrong type, what it must be and what it holds.
    """
    for path, (words, is_valid) in types.items():
        *parents, key = path.split(".")
        holder: Any = record
        for parent in parents:
            holder = holder.get(parent) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and key in holder and not is_valid(holder[key]):
            text = repr(holder[key])
            shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
            raise TypeError(f"{place}{path} must be {words}, got {shown}")


def reason_of(error: BaseException) -> str:
    """Why a record was refused, as a message that names the field."""
    if isinstance(error, KeyError) and error.args:
        return f"it has no {error.args[0]}"
    if match := _ARGUMENT.fullmatch(str(error)):
        holder = "it" if match[1] in ("Run", "Sample") else match[1].lower()
        return f"{holder} has {'no' if match[2] == 'missing' else 'the unknown field'} {match[3]}"
    return str(error)


_ARGUMENT = re.compile(r"(\w+)\.__init__\(\) (missing|got)[^']*'(\w+)'.*")
"""What Python says of a dataclass that is made with a field too few or too many."""
_LONGEST = 60
"""Characters of a wrong value that a message shows."""
