"""Who decodes when: a run's turns in order, and the order of the arms in each of them.

The order of the arms is a seeded Latin square balanced for carry-over, the design of E. J. Williams (1949,
"Experimental designs balanced for the estimation of residual effects of treatments"): over a block of
questions each arm stands at each place, and after each other arm, equally often. With two arms it alternates:
baseline then method, method then baseline. All turns of a conversation have one order. An eager arm comes
last, and in the first repeat only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from bench.records.model import Arm, Key, Prompt, Sample


@dataclass(frozen=True, slots=True)
class Cell:
    """One turn of one prompt in one repeat: each arm of `labels` decodes it once.

    Args:
        repeat: Counts on over the sessions.
        labels: The arms in their order.
    """

    prompt: Prompt
    turn: int
    repeat: int
    session: int
    labels: tuple[str, ...]


def cells_of(
    prompts: Sequence[Prompt], labels: Iterable[str], *, repeats: int, sessions: Iterable[int], seed: int
) -> Iterator[Cell]:
    """All cells in order; repeats of a prompt follow each other, while the machine is in one state.

    Args:
        prompts: Of the task.
        labels: Of all arms.
        repeats: In every session.
        sessions: The numbers of the sessions, from 0.
        seed: Of the order of the arms.
    """
    everyone = list(labels)
    square = [label for label in everyone if label != Arm.EAGER]
    last = [label for label in everyone if label == Arm.EAGER]
    for session in sessions:
        for place, prompt in enumerate(prompts):
            for repeat in range(repeats):
                number = session * len(prompts) * repeats + place * repeats + repeat
                order = [square[arm] for arm in order_of(seed, number, len(square))]
                is_first = session == repeat == 0
                names = (*order, *(last if is_first else ()))
                for turn in range(len(prompt.turns)):
                    yield Cell(prompt, turn, session * repeats + repeat, session, names)


def key_of(cell: Cell, label: str) -> Key:
    """`Sample.key` of what this arm decodes in this cell."""
    return (cell.prompt.id, cell.turn, cell.repeat, label)


def arm_of(label: str) -> Arm:
    """The arm that a label belongs to; whatever is not an arm's own name is a method's label."""
    return Arm(label) if label in list(Arm) else Arm.METHOD


def blank(cell: Cell, label: str, order: int, after: str) -> Sample:
    """The record of a turn before it is decoded."""
    arm = arm_of(label)
    return Sample(
        prompt_id=cell.prompt.id,
        subtask=cell.prompt.subtask,
        turn=cell.turn,
        repeat=cell.repeat,
        arm=arm,
        order=order,
        method=label if arm is Arm.METHOD and label != Arm.METHOD else "",
        session=cell.session,
        after=after,
        error="not decoded",
    )


def failed(sample: Sample, error: str) -> Sample:
    """The record of a turn that failed: where it stood, and no number."""
    names = ("prompt_id", "subtask", "turn", "repeat", "arm", "order", "method", "session", "after")
    return Sample(**{name: getattr(sample, name) for name in names}, error=error)


def williams(arms: int) -> list[list[int]]:
    """Rows of the Williams design, each an order of the arms 0 to `arms` - 1.

    An even number of arms needs one square of `arms` rows, an odd number two: the second is the first with
    each row reversed.

    Raises:
        ValueError: If there is no arm.
    """
    if arms < 1:
        raise ValueError(f"a Latin square needs at least 1 arm, got {arms}")
    zigzag = [(place + 1) // 2 if place % 2 else (arms - place // 2) % arms for place in range(arms)]
    square = [[(arm + shift) % arms for arm in zigzag] for shift in range(arms)]
    is_balanced = arms % 2 == 0 or arms == 1
    return square if is_balanced else square + [row[::-1] for row in square]


def order_of(seed: int, cell: int, arms: int) -> list[int]:
    """The order of the arms in cell number `cell`, the same on every call.

    Each block of cells uses every row of the design once, in a random order and with the arms relabelled at
    random, so that the balance over a whole block is exact. Two arms alternate whatever the seed, and cell 0
    starts with arm 0: two repeats of a question then decode it as A B, B A.

    Args:
        seed: Chooses the random order of rows and the labels, at least 0.
        cell: Number of the cell, counted from 0 through the whole session.
        arms: Number of arms.

    Raises:
        ValueError: If a number is out of range.
    """
    if seed < 0 or cell < 0:
        raise ValueError(f"seed and cell must not be negative, got {seed} and {cell}")
    rows = 2 if arms == 2 else len(williams(arms))
    return list(_block(seed, cell // rows, arms)[cell % rows])


@cache
def _block(seed: int, block: int, arms: int) -> tuple[tuple[int, ...], ...]:
    """The orders of one block of cells, one row per cell."""
    rows = williams(arms)
    if arms == 2:
        return tuple(map(tuple, rows))
    generator = np.random.default_rng([seed, block])
    labels = [int(label) for label in generator.permutation(arms)]
    shuffled = [rows[int(row)] for row in generator.permutation(len(rows))]
    return tuple(tuple(labels[arm] for arm in row) for row in shuffled)
