"""The distribution of short answers: what it is, and whether a sample of answers came from it.

All answers of n tokens form a tree of prefixes. Its cells are the answers likely enough to be counted one by
one; unlikely branches of a prefix share that prefix's cell, so no answer is left out.

Shapes: V vocabulary, C cells.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler

LEAST_EXPECTED = 5.0
"""Cells with a smaller expected count are merged: Pearson's approximation is poor below it."""

Prefix = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cells:
    """A partition of all answers of n tokens.

    Args:
        chances: Probability of every cell: a whole answer, or a prefix standing for its unlikely branches.
        inner: Prefixes that are split further, the empty prefix included.
        length: Tokens of an answer (n).
    """

    chances: dict[Prefix, float]
    inner: frozenset[Prefix]
    length: int

    def cell(self, ids: Sequence[int]) -> Prefix:
        """The cell that an answer of n tokens belongs to."""
        answer = tuple(ids)
        known = 0
        while answer[: known + 1] in self.inner:
            known += 1
        longer = answer[: known + 1]
        return longer if longer in self.chances and len(longer) == self.length else answer[:known]


@dataclass(frozen=True, slots=True)
class Fit:
    """How well observed answers fit.

    Args:
        p_value: Chance of a fit at least this bad, by Pearson's chi-square test; 0 for an impossible answer.
        statistic: Chi-square.
        freedom: Degrees of freedom.
        distance: Total variation between observed and true frequencies over the merged cells.
        noise: Total variation to expect from sampling alone.
        impossible: Answers of probability zero.
    """

    p_value: float
    statistic: float
    freedom: int
    distance: float
    noise: float
    impossible: int


@torch.inference_mode()
def enumerate_answers(decoder: Decoder, prompt: Tensor, sampler: Sampler, length: int, draws: int) -> Cells:
    """The cells of the target's own answers, each prefix run as plain decoding runs it, one row per pass.

    Args:
        decoder: The target.
        prompt: Token ids, shape [P].
        sampler: Warps the logits; nothing is drawn.
        length: Tokens of an answer.
        draws: Answers that will be sampled: decides which branches are unlikely.
    """
    chances: dict[Prefix, float] = {}
    inner: set[Prefix] = set()

    def visit(prefix: Prefix, chance: float, logits: Tensor) -> None:
        inner.add(prefix)
        rest = 0.0
        for token, share in enumerate(sampler.probabilities(logits.double())[0].tolist()):
            if chance * share * draws < LEAST_EXPECTED:
                rest += chance * share
            elif len(prefix) + 1 == length:
                chances[(*prefix, token)] = chance * share
            else:
                base = prompt.numel() + len(prefix)
                visit((*prefix, token), chance * share, decoder.step(prompt.new_tensor([token]), base))
        chances[prefix] = rest

    visit((), 1.0, decoder.prefill(prompt))
    return Cells(chances, frozenset(inner), length)


def fit(cells: Cells, answers: Iterable[Sequence[int]]) -> Fit:
    """Pearson's chi-square test and total variation of sampled answers against the true distribution.

    Cells of small expectation are merged into one. An answer in a cell of probability zero
    decides by itself: the target never gives it.

    Raises:
        ValueError: If there are no answers.
    """
    counts = Counter(cells.cell(answer) for answer in answers)
    total = sum(counts.values())
    if total == 0:
        raise ValueError("a fit needs at least one answer")
    impossible = sum(count for cell, count in counts.items() if cells.chances[cell] == 0)
    large = {cell: chance for cell, chance in cells.chances.items() if chance * total >= LEAST_EXPECTED}
    merged = sum(chance for cell, chance in cells.chances.items() if cell not in large)
    chances = [*large.values(), merged]
    observed = [*(counts[cell] for cell in large), total - sum(counts[cell] for cell in large)]
    if merged * total < 1:  # too little to test by itself: it joins the largest cell
        top = max(range(len(large)), key=lambda index: chances[index])
        chances[top] += chances.pop()
        observed[top] += observed.pop()
    expected = [chance * total for chance in chances]
    pairs = list(zip(observed, expected, strict=True))
    statistic = sum((seen - mean) ** 2 / mean for seen, mean in pairs)
    freedom = len(chances) - 1
    return Fit(
        p_value=0.0 if impossible else chi_square_tail(statistic, freedom),
        statistic=statistic,
        freedom=freedom,
        distance=sum(abs(seen - mean) for seen, mean in pairs) / (2 * total),
        noise=sum(math.sqrt(2 * chance * (1 - chance) / (math.pi * total)) for chance in chances) / 2,
        impossible=impossible,
    )


def chi_square_tail(statistic: float, freedom: int) -> float:
    """Chance that a chi-square variable exceeds `statistic`; 1 without freedom."""
    if freedom == 0:
        return 1.0
    halves = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(halves[0], halves[1]))
