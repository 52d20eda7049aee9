"""The turns that a run decodes, in the order of the day, and how a sample of each is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.records.model import Arm, Prompt


@dataclass(frozen=True, slots=True)
class Cell:
    """One turn of one prompt in one repeat: each of `arms_of` decodes it once."""

    prompt: Prompt
    turn: int
    repeat: int


def cells_of(prompts: tuple[Prompt, ...], repeats: int) -> Iterator[Cell]:
    """All cells, repeats of a prompt next to each other: they pair best under one state of the machine."""
    for prompt in prompts:
        for repeat in range(repeats):
            for turn in range(len(prompt.turns)):
                yield Cell(prompt, turn, repeat)


def arms_of(cell: Cell, arms: Iterable[Arm]) -> list[Arm]:
    """Those of a run's arms that decode a cell, in order: as given, in odd repeats reversed.

    The eager arm decodes the first repeat only, see `bench.compose.settings.MeasureConfig`.
    """
    order = [arm for arm in arms if arm is not Arm.EAGER or cell.repeat == 0]
    return order if cell.repeat % 2 == 0 else order[::-1]


def key_of(cell: Cell, arm: Arm) -> tuple[str, int, int, str]:
    return (cell.prompt.id, cell.turn, cell.repeat, arm.value)
