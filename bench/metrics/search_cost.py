"""What searching while decoding costs: pure functions of records, as in `bench.metrics.counts`.

A method that searches counts ``searching_rounds`` (rounds with the search on) and ``search_steps`` (sets
scored) in every sample, and books the time to the phase ``search``. A sample is *cold* if the search was on
in any of its rounds, else *warm*. A method that skips sub-layers counts ``skipped_sublayers`` of
``sublayers``, each summed over rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.metrics.counts import UndefinedError, decode_speed
from bench.records.model import Sample


@dataclass(frozen=True, slots=True)
class SearchCost:
    """Decode speeds around a search, in tokens per second; None where no sample is of that kind.

    Args:
        cold: While it was on, its own time included.
        warm: Behind it.
        total: Over all samples.
        share: Of decode time, spent on the search, pooled.
        rounds: Decoded while it was on.
        steps: Sets scored.
        is_over: Whether any sample was decoded behind it.
    """

    cold: float | None
    warm: float | None
    total: float
    share: float
    rounds: int
    steps: int
    is_over: bool


def search_cost(samples: Sequence[Sample]) -> SearchCost:
    """Cold, warm and total speed, and the search's share of decode time.

    Raises:
        UndefinedError: If no sample is of a method that searches, or none decoded behind its first token.
    """
    searching = [one for one in samples if "searching_rounds" in one.counts]
    if not searching:
        raise UndefinedError("search_cost needs samples of a method that searches")
    rounds = sum(one.counts["searching_rounds"] for one in searching)
    cold = [one for one in searching if one.counts["searching_rounds"]]
    warm = [one for one in searching if one.rounds and not one.counts["searching_rounds"]]
    timings = [one.timing for one in searching if one.timing is not None]
    return SearchCost(
        cold=decode_speed(cold) if cold else None,
        warm=decode_speed(warm) if warm else None,
        total=decode_speed(searching),
        share=sum(one.phases_s.get("search", 0.0) for one in timings) / sum(one.decode_s for one in timings),
        rounds=rounds,
        steps=sum(one.counts["search_steps"] for one in searching),
        is_over=bool(warm),
    )


def skipped_share(samples: Sequence[Sample]) -> float:
    """Share of sub-layers that drafting left out, pooled over rounds.

    Raises:
        UndefinedError: If no round is of a method that skips sub-layers.
    """
    total = sum(one.counts.get("sublayers", 0) for one in samples)
    if not total:
        raise UndefinedError("skipped_share needs a round of a method that skips sub-layers")
    return sum(one.counts.get("skipped_sublayers", 0) for one in samples) / total
