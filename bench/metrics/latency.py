"""Latency as people feel it: the wait for the first token, and then for the next ones.

A round's tokens appear together, so a reader waits once per round and not once per token. An average hides
the long waits; percentiles show them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from bench.metrics.counts import UndefinedError
from bench.records.model import Sample

SHARES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds that 50, 90 and 99 % of the values do not exceed."""

    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Percentiles | None:
        """Of these values, interpolated; None where there are none."""
        values = np.fromiter(seconds, dtype=np.float64)
        return cls(*map(float, np.percentile(values, SHARES))) if values.size else None


@dataclass(frozen=True, slots=True)
class Latency:
    """Waits of one arm in seconds; None where the records do not hold them.

    Args:
        first_token: From the start of an answer to its first token, by answer.
        per_token: Decode time of an answer over its tokens after the first, by answer.
        per_round: Time of a round, by round: the wait for the next piece of text.
    """

    first_token: Percentiles | None
    per_token: Percentiles | None
    per_round: Percentiles | None


def latency(samples: Sequence[Sample]) -> Latency:
    """The waits over all answers of an arm.

    Raises:
        UndefinedError: If no sample was measured.
    """
    timed = [(sample, sample.timing) for sample in samples if sample.timing is not None]
    if not timed:
        raise UndefinedError("latency needs a measured sample")
    return Latency(
        first_token=Percentiles.of(timing.prefill_s for _, timing in timed),
        per_token=Percentiles.of(
            timing.decode_s / (len(sample.ids) - 1) for sample, timing in timed if len(sample.ids) > 1
        ),
        per_round=Percentiles.of(chain.from_iterable(timing.rounds_s for _, timing in timed)),
    )
