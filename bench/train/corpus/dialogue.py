"""The dialogue that every generator returns, and the check specs in it.

A check spec is a mapping for `bench.tasks.checkers` that JSON can hold; this file only builds such mappings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from bench.tasks.spec_bench import SUBTASKS


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation with a reference answer and a check spec for each turn."""

    subtask: str
    turns: tuple[str, ...]
    answers: tuple[str, ...]
    checks: tuple[dict[str, Any], ...]

    def __post_init__(self) -> None:
        if self.subtask not in SUBTASKS:
            raise ValueError(f"subtask must be one of {SUBTASKS}, got {self.subtask!r}")
        if not len(self.turns) == len(self.answers) == len(self.checks) > 0:
            raise ValueError("a dialogue needs one answer and one check for each of its turns")


Generator = Callable[[Random], Dialogue]


def contains(facts: Sequence[str], *, forbid: Sequence[str] = (), form: str = "prose") -> dict[str, Any]:
    """Check spec: every fact occurs in the answer as whole words, and no forbidden phrase does."""
    return {"kind": "contains", "facts": list(facts), "forbid": list(forbid), "form": form}


def final_number(value: int) -> dict[str, Any]:
    """Check spec: the answer closes with "The answer is <value>."."""
    return {"kind": "number", "value": value, "form": "prose"}


def reference(text: str) -> dict[str, Any]:
    """Check spec: the answer follows the reference text nearly word for word."""
    return {"kind": "reference", "text": text, "form": "prose"}


def capital(text: str) -> str:
    """The text with its first letter in upper case and the rest as it was."""
    return text[:1].upper() + text[1:]
