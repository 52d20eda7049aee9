"""What a task is: prompts plus where they came from, and how `limit` and `ids` choose among them.

`task.limit=n` spreads n prompts evenly over the subtasks and over each subtask's questions; a larger limit
holds all prompts of a smaller one, so a longer run extends a short one. The choice never depends on a seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import gcd
from typing import Protocol, runtime_checkable

from bench.errors import UserError, nearest
from bench.records.model import Prompt

GOLDEN_RATIO = 0.6180339887498949


class SourceName(StrEnum):
    """Which questions were asked; tables show it, since results on different questions do not compare."""

    OFFICIAL = "official"
    """Spec-Bench's question file, byte for byte."""
    MODIFIED = "modified"
    """A file given in its place whose content differs."""
    BUILTIN = "builtin"
    """The questions shipped for the embedded model."""
    PUBLISHED = "published"
    """A data set of another paper, from where it is published or byte for byte the same file."""
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
    """Prompts in file order, and their source."""

    prompts: tuple[Prompt, ...]
    source: TaskSource


class Task(Protocol):
    """Settings of a task; constructor parameters are the keys of its yaml."""

    @property
    def name(self) -> str:
        """How the user calls it: ``task=<name>``."""

    def load(self) -> LoadedTask:
        """Read, check and choose the prompts.

        Raises:
            bench.errors.UserError: If the file or a setting is at fault.
        """


@runtime_checkable
class Fetched(Protocol):
    """A task whose prompts may have to be fetched first; a plan asks it rather than the network."""

    def unfetched_turns(self) -> int | None:
        """Turns it will ask, as far as its settings tell; None if its prompts are at hand."""


def suggest(wrong: str, options: Sequence[str]) -> str:
    """A fix line for an unknown name: the likeliest option first, then the options (at most 12 named)."""
    close = nearest(wrong, options)
    shown = ", ".join(options[:12])
    rest = f", and {len(options) - 12} more" if len(options) > 12 else ""
    guess = f"Did you mean {close!r}? " if close else ""
    return f"{guess}Choose from: {shown}{rest}."


def check_selection(limit: object, ids: object) -> None:
    """Refuse a `limit` that is no positive integer and `ids` that are no list of ids.

    Raises:
        UserError: If either is malformed.
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
    wanted = {str(one) for one in ids}  # yaml reads task.ids=[81] as numbers
    for one in sorted(wanted - set(known)):
        raise UserError(f"task.ids names {one!r}, which this task does not hold", suggest(one, known))
    return [prompt for prompt in prompts if prompt.id in wanted]


def _spread(prompts: Sequence[Prompt], limit: int) -> list[str]:
    """Ids of `limit` prompts, dealt one subtask after the other."""
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

    Steps of about the golden ratio of the length visit each place once. MT-bench lists its eight categories
    one after the other, so its first n questions would all be of one kind.
    """
    n = len(ids)
    step = max(1, round(n * GOLDEN_RATIO))
    while gcd(step, n) != 1:
        step += 1
    return [ids[i * step % n] for i in range(n)]
