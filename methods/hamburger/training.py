"""What HAMburger learns from a dialogue: its answers, cut into groups (arXiv 2505.20438).

Shapes: T tokens of a dialogue, M answer tokens of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from methods.hamburger.batch import Answer, Groups
from methods.hamburger.groups import entropies, random_split, segment


@dataclass(frozen=True, slots=True)
class Grouping:
    """How answers are cut into groups for training.

    Some answers are not segmented but cut otherwise, so that other groups stay familiar: those of one token
    keep the tuned model usable as a plain autoregressive decoder, the limit of a high confidence, and those
    that decoding itself would cut are the history it is going to read. The stop head learns nothing from
    them. The paper has none.

    Args:
        max_group: Most tokens of a group (K).
        floor: See `methods.hamburger.groups.segment`.
        ratio: Likewise.
        singles: Share of answers in groups of one.
        random: Share of answers in groups of random sizes.
        decoded: Share of answers in the groups that decoding cuts, see `methods.hamburger.decoded`.
    """

    max_group: int
    floor: float
    ratio: float
    singles: float
    random: float
    decoded: float

    def __post_init__(self) -> None:
        if self.floor < 0 or not 0 <= self.ratio <= 1:
            raise ValueError(f"need floor of at least 0 and ratio in [0, 1], got {self}")
        others = (self.singles, self.random, self.decoded)
        if min(others) < 0 or sum(others) > 1:
            raise ValueError(
                f"shares of augmented answers must be at least 0 and sum to at most 1, got {self}"
            )

    def sizes(
        self, values: Sequence[float], decoded: Callable[[], list[int]], rng: Random
    ) -> tuple[list[int], bool]:
        """Group sizes of an answer, and whether they label the stop head.

        Args:
            values: Entropy of each token's prediction.
            decoded: Cuts the answer as decoding would.
            rng: Draws which way it is cut.
        """
        draw = rng.random()
        if draw < self.singles:
            return [1] * len(values), False
        if draw < self.singles + self.random:
            return random_split(len(values), self.max_group, rng), False
        if draw < self.singles + self.random + self.decoded:
            return decoded(), False
        return segment(values, self.max_group, self.floor, self.ratio), True


@torch.no_grad()
def answers_of(
    ids: Sequence[int],
    is_answer: Sequence[bool],
    decoder: Decoder,
    grouping: Grouping,
    decoded: Callable[[Sequence[int], int], list[int]],
    rng: Random,
) -> list[Answer]:
    """Every answer of a dialogue with all before it as its prompt, grouped by the untuned model's entropies.

    Args:
        ids: Token ids, length T.
        is_answer: Which of them are answers, their end tokens included, length T.
        decoder: The untuned model.
        grouping: How answers are cut.
        decoded: Sizes of the groups that decoding would cut an answer into: of all ids up to its end, and its
            first position.
        rng: Draws which answers are cut otherwise.
    """
    tokens = torch.tensor(ids, device=decoder.device)
    decoder.cache.truncate(0)
    hidden = decoder.run_layers(decoder.embed(tokens), decoder.placement.chain(0, len(ids)))
    values = [0.0, *entropies(decoder.head(hidden)).tolist()]  # of the prediction of token i, not behind it
    found = []
    for start, end in _spans(is_answer):
        sizes, is_labelled = grouping.sizes(values[start:end], partial(decoded, ids[:end], start), rng)
        found.append(Answer(ids[:end], start, sizes, is_labelled, hidden[start - 1 : end - 1]))
    return found


@torch.no_grad()
def distilled_labels(groups: Groups, decoder: Decoder, share: float) -> Tensor | None:
    """What answer tokens are learned as: the text's token mixed with the untuned model's view, shape [M, V].

    The untuned model's distribution also says how likely every other token was. The paper has the text alone.

    Args:
        groups: The batch.
        decoder: The untuned model.
        share: Of its distribution in the mix; at 0 there is no need for any: None.
    """
    if share == 0:
        return None
    labels = decoder.head(groups.teacher_rows).float().softmax(dim=-1).mul_(share)
    rows = torch.arange(labels.shape[0], device=labels.device)
    labels[rows, groups.labels] += 1 - share
    return labels


def _spans(is_answer: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Start and end of every run of answer tokens that has a prompt."""
    start: int | None = None
    for index, inside in enumerate([*is_answer, False]):
        if inside and start is None:
            start = index
        elif not inside and start is not None:
            if start > 0:
                yield start, index
            start = None
