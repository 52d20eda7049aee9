"""The training corpus of the embedded model: six seeded generators, and the split of held-out prompts.

A hash of the first user turn decides whether a dialogue is held out, so no training stream of any seed
contains a held-out prompt. Start reading here, at `training_dialogues` and `heldout_dialogues`, which other
packages import; each Spec-Bench subtask has its generator in a module, and ``python -m bench.train.corpus``
prints examples.
"""

import hashlib
from collections.abc import Iterator, Mapping
from random import Random

from bench.tasks.spec_bench import SUBTASKS
from bench.train.corpus import atlas, chat, german, math_problems, news, passages
from bench.train.corpus.dialogue import Dialogue, Generator

__all__ = ["SUBTASKS", "WEIGHTS", "Dialogue", "heldout_dialogues", "is_held_out", "training_dialogues"]

GENERATORS: Mapping[str, Generator] = {
    "mt_bench": chat.make,
    "translation": german.make,
    "summarization": news.make,
    "qa": atlas.make,
    "math_reasoning": math_problems.make,
    "rag": passages.make,
}
# Relative frequency of dialogues; arithmetic and translation, the hardest to learn, come more often.
WEIGHTS: Mapping[str, int] = {
    "mt_bench": 3,
    "translation": 5,
    "summarization": 3,
    "qa": 4,
    "math_reasoning": 5,
    "rag": 3,
}
HELD_OUT_MODULUS = 64
MAX_DRAWS_PER_PROMPT = (
    20 * HELD_OUT_MODULUS
)  # many more than needed: reached only if a generator has too few prompts


def is_held_out(prompt: str) -> bool:
    """Whether a first user turn is held out: its SHA-256 is 0 modulo 64."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") % HELD_OUT_MODULUS == 0


def training_dialogues(seed: int, mix: Mapping[str, float] = WEIGHTS) -> Iterator[Dialogue]:
    """An endless stream of training dialogues.

    Args:
        seed: Seed of the stream; the same seed gives the same dialogues on every machine.
        mix: Relative frequency of each subtask.
    """
    rng = Random(seed)
    names, weights = list(mix), list(mix.values())
    while True:
        dialogue = GENERATORS[rng.choices(names, weights)[0]](rng)
        if not is_held_out(dialogue.turns[0]):
            yield dialogue


def _distinct_held_out(subtask: str, rng: Random, count: int) -> list[Dialogue]:
    """The first `count` held-out dialogues of one subtask with distinct first turns."""
    dialogues: dict[str, Dialogue] = {}
    for _ in range(MAX_DRAWS_PER_PROMPT * count):
        dialogue = GENERATORS[subtask](rng)
        if is_held_out(dialogue.turns[0]):
            dialogues.setdefault(dialogue.turns[0], dialogue)
        if len(dialogues) == count:
            return list(dialogues.values())
    raise ValueError(f"{subtask} has only {len(dialogues)} distinct held-out prompts, not {count}")


def heldout_dialogues(seed: int, per_subtask: int = 84) -> list[Dialogue]:
    """Dialogues whose first turn no training stream produces, in subtask order, without duplicates.

    Args:
        seed: Seed of the choice.
        per_subtask: Dialogues per subtask, at least 1.

    Raises:
        ValueError: If `per_subtask` is below 1, or more than a subtask has prompts for.
    """
    if per_subtask < 1:
        raise ValueError(f"per_subtask must be at least 1, got {per_subtask}")
    return [
        dialogue
        for name in SUBTASKS
        for dialogue in _distinct_held_out(name, Random(f"{seed}/{name}"), per_subtask)
    ]
