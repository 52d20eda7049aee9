"""Which tokens of an answer belong together (HAMburger, arXiv 2505.20438: the data segmentation).

The untuned model reads the true answer; a group is an uncertain token and those behind it that are far more
certain, or a run of near-certain tokens. No model is needed for it after training: the stop head has learnt
the borders.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from torch import Tensor

MAX_GROUP = 4
FLOOR = 0.05
"""Nats below which a token counts as certain."""
RATIO = 0.3
"""A token joins if its entropy is below this share of the group's highest."""


def entropies(logits: Tensor) -> Tensor:
    """Shannon entropy of each row's distribution in nats, computed in fp32, shape [T], from logits [T, V]."""
    logs = logits.float().log_softmax(dim=-1)
    return -(logs.exp() * logs).sum(dim=-1)


def segment(
    values: Sequence[float], max_group: int = MAX_GROUP, floor: float = FLOOR, ratio: float = RATIO
) -> list[int]:
    """Sizes of the groups, left to right (the published strategy, ``decreasing_v2``).

    Args:
        values: Entropy of the model's prediction of each token, in nats.
        max_group: Most tokens of a group (K).
        floor: A token below this joins any group.
        ratio: A token below this share of the group's highest entropy joins it.

    Returns:
        Sizes that sum to ``len(values)``.
    """
    sizes: list[int] = []
    highest = 0.0
    for value in values:
        if sizes and sizes[-1] < max_group and (value < floor or value < ratio * highest):
            sizes[-1] += 1
            highest = max(highest, value)
        else:
            sizes.append(1)
            highest = value
    return sizes


def random_split(length: int, max_group: int, rng: Random) -> list[int]:
    """Groups of random sizes from 1 to `max_group` that sum to `length`."""
    sizes: list[int] = []
    while length > 0:
        sizes.append(min(length, rng.randint(1, max_group)))
        length -= sizes[-1]
    return sizes
