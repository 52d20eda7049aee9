"""A task: its prompts, and how `limit` and `ids` choose among them.

The built-in, the official and the user's own questions are read by `bench.tasks.prompt_files`.

`task.limit=n` spreads n prompts evenly over the subtasks and over each subtask's questions. A larger limit
includes all prompts of a smaller one, so a longer run extends a short one. The choice does not depend on a
seed.
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
    """Kind of question file; tables show it, since results on different questions cannot be compared."""

    OFFICIAL = "official"
    """Spec-Bench's question file, byte for byte."""
    MODIFIED = "modified"
    """A file given with ``task.path`` whose content differs from Spec-Bench's."""
    BUILTIN = "builtin"
    """The questions shipped for the embedded model."""
    NATURAL = "natural"
    """The questions shipped for all other models, in everyday language."""
    PUBLISHED = "published"
    """A data set of another paper: downloaded from where it is published, or a byte-identical local file."""
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
    """Chosen prompts in file order, and their source."""

    prompts: tuple[Prompt, ...]
    source: TaskSource


class Task(Protocol):
    """Settings of a task; constructor parameters are the keys of its yaml."""

    @property
    def name(self) -> str:
        """Name on the command line: ``task=<name>``."""

    def load(self) -> LoadedTask:
        """Read, check and choose the prompts.

        Raises:
            bench.errors.UserError: If the file cannot be read or a setting is invalid.
        """


@runtime_checkable
class Fetched(Protocol):
    """A task whose prompts may have to be downloaded; a plan needs their number before that."""

    def unfetched_turns(self) -> int | None:
        """Number of turns that its settings imply; None if its prompts need no download."""


def load_here(task: Task) -> LoadedTask | None:
    """The prompts if they are on this machine; None if they must be downloaded first.

    Raises:
        UserError: If they cannot be read, or a setting does not fit them.
    """
    return task.load() if not isinstance(task, Fetched) or task.unfetched_turns() is None else None


def suggest(wrong: str, options: Sequence[str]) -> str:
    """A fix line for an unknown name: the most similar option, then a list of at most 12 options."""
    close = nearest(wrong, options)
    shown = ", ".join(options[:12])
    rest = f", and {len(options) - 12} more" if len(options) > 12 else ""
    guess = f"Did you mean {close!r}? " if close else ""
    return f"{guess}Choose from: {shown}{rest}."


def check_selection(limit: object, ids: object) -> None:
    """Check that `limit` is None or a positive integer, and `ids` None or a list.

    Raises:
        UserError: If not.
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
    chosen = {str(name) for name in ids}  # yaml reads task.ids=[81] as numbers
    for name in sorted(chosen - set(known)):
        raise UserError(f"task.ids names {name!r}, which this task does not hold", suggest(name, known))
    return [prompt for prompt in prompts if prompt.id in chosen]


def _spread(prompts: Sequence[Prompt], limit: int) -> list[str]:
    """Ids of `limit` prompts: the first of every subtask, then the second of every subtask, and so on."""
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

    Steps of about the golden ratio of the length visit each place once. Without this the first n questions of
    MT-bench would all be of one kind, for it lists its eight categories one after the other.
    """
    n = len(ids)
    step = max(1, round(n * GOLDEN_RATIO))
    while gcd(step, n) != 1:
        step += 1
    return [ids[i * step % n] for i in range(n)]
