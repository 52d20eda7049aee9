"""Ties of half-precision output: how often they occur and how close the logits were. Functions of records.

In bf16 and fp16 passes of one row and of several round differently, so an exact method may leave the
baseline's output where two logits nearly tie. How often, and at which margins, says whether "tie-explained"
deserves its name: true ties crowd below the tolerance, mistakes do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.metrics.counts import UndefinedError
from bench.records.model import Sample, Verdict

EDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 2**-5, 2**-4, 2**-3, 2**-2, 2**-1, 1.0, 2.0, 4.0, float("inf"))
"""Borders of the bins, in logits; powers of two where half precision rounds."""


@dataclass(frozen=True, slots=True)
class Bin:
    """A row of a histogram: `count` margins with ``low <= margin < high``."""

    low: float
    high: float
    count: int


def tie_rate(samples: Sequence[Sample]) -> float:
    """Diverging outputs that a tie explains, per token of all judged outputs.

    Raises:
        UndefinedError: If no output was judged.
    """
    judged = [one for one in samples if _verdict(one) is not Verdict.UNCHECKED]
    tokens = sum(len(one.ids) for one in judged)
    if tokens == 0:
        raise UndefinedError("the tie rate needs at least one judged output")
    return sum(_verdict(one) is Verdict.TIE_EXPLAINED for one in judged) / tokens


def divergence_margins(samples: Sequence[Sample]) -> list[float]:
    """Top-1 minus top-2 logit of the target where each diverging output first left the baseline's."""
    found = [one.equivalence.tie_margin for one in samples if one.equivalence is not None]
    return [margin for margin in found if margin is not None]


def margin_histogram(margins: Iterable[float], edges: Sequence[float] = EDGES) -> list[Bin]:
    """Margins counted in bins; bins before the first and behind the last margin are left out.

    Raises:
        ValueError: If a margin lies in no bin.
    """
    given = list(margins)
    if any(not edges[0] <= one < edges[-1] for one in given):
        raise ValueError(f"margins must lie in [{edges[0]}, {edges[-1]}), got {min(given)} to {max(given)}")
    bins = [Bin(low, high, sum(low <= one < high for one in given)) for low, high in pairwise(edges)]
    filled = [index for index, one in enumerate(bins) if one.count]
    return bins[filled[0] : filled[-1] + 1] if filled else []


def _verdict(sample: Sample) -> Verdict:
    return sample.equivalence.verdict if sample.equivalence else Verdict.UNCHECKED
