"""Who decodes when: a run's turns in order, and the order of the arms in each of them.

The order of the arms is a Latin square (`bench.metrics.latin_square`), so that over a block of questions each
arm stands at each place, and after each other arm, equally often. With two arms it alternates: baseline then
method, method then baseline. All turns of a conversation have one order. An eager arm comes last, and in the
first repeat only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.metrics.latin_square import order_of
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
