"""What an arm took: memory, energy, and the time of a search while decoding. Pure functions of its samples.

A method that searches while it decodes counts ``searching_rounds`` (rounds with the search on) and
``search_steps`` (candidates scored) in every sample, and books the time to the phase ``search``. A sample is
*cold* if the search was on in any of its rounds, else *warm*. A method that skips sub-layers counts
``skipped_sublayers`` of ``sublayers``, each summed over rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.metrics.counts import UndefinedError, decode_speed
from bench.records.model import Sample


@dataclass(frozen=True, slots=True)
class Resources:
    """Memory and energy of an arm; None where they were not measured, as on a CPU.

    Args:
        allocated_bytes: Most that PyTorch had allocated, weights and cache included.
        reserved_bytes: Most that its allocator held.
        joules_per_token: Energy of the whole GPU over output tokens, prefill included, sum over sum.
    """

    allocated_bytes: int | None
    reserved_bytes: int | None
    joules_per_token: float | None


UNMEASURED = Resources(None, None, None)


@dataclass(frozen=True, slots=True)
class SearchCost:
    """Decode speeds around a search, in tokens per second; None where there is no such sample.

    Args:
        cold: While the search was on, its own time included.
        warm: After it had ended.
        total: Over all samples.
        share: Share of decode time that the search took, pooled.
        rounds: Rounds decoded while it was on.
        steps: Candidates scored.
        has_ended: Whether any sample was decoded after the search had ended.
    """

    cold: float | None
    warm: float | None
    total: float
    share: float
    rounds: int
    steps: int
    has_ended: bool


def resources(samples: Sequence[Sample]) -> Resources:
    """Peaks and energy over all samples of an arm; one missing reading leaves the figure unknown."""
    joules = _all_known(sample.energy_j for sample in samples)
    allocated = _all_known(sample.peak_memory_bytes for sample in samples)
    reserved = _all_known(sample.peak_reserved_bytes for sample in samples)
    return Resources(
        allocated_bytes=None if allocated is None else int(max(allocated)),
        reserved_bytes=None if reserved is None else int(max(reserved)),
        joules_per_token=None if joules is None else sum(joules) / sum(len(sample.ids) for sample in samples),
    )


def search_cost(samples: Sequence[Sample]) -> SearchCost:
    """Speed during, after and in all, and the search's share of decode time.

    Raises:
        UndefinedError: If no sample is of a method that searches, or none decoded more than its first token.
    """
    searching = [sample for sample in samples if "searching_rounds" in sample.counts]
    if not searching:
        raise UndefinedError("search_cost needs samples of a method that searches")
    rounds = sum(sample.counts["searching_rounds"] for sample in searching)
    cold = [sample for sample in searching if sample.counts["searching_rounds"]]
    warm = [sample for sample in searching if sample.rounds and not sample.counts["searching_rounds"]]
    timings = [sample.timing for sample in searching if sample.timing is not None]
    search_s = sum(timing.phases_s.get("search", 0.0) for timing in timings)
    return SearchCost(
        cold=decode_speed(cold) if cold else None,
        warm=decode_speed(warm) if warm else None,
        total=decode_speed(searching),
        share=search_s / sum(timing.decode_s for timing in timings),
        rounds=rounds,
        steps=sum(sample.counts["search_steps"] for sample in searching),
        has_ended=bool(warm),
    )


def skipped_share(samples: Sequence[Sample]) -> float:
    """Share of sub-layers that drafting left out, pooled over rounds.

    Raises:
        UndefinedError: If no round is of a method that skips sub-layers.
    """
    total = sum(sample.counts.get("sublayers", 0) for sample in samples)
    if not total:
        raise UndefinedError("skipped_share needs a round of a method that skips sub-layers")
    return sum(sample.counts.get("skipped_sublayers", 0) for sample in samples) / total


def _all_known(readings: Iterable[float | None]) -> list[float] | None:
    """The readings, or None where one is missing or there is none."""
    given = list(readings)
    known = [reading for reading in given if reading is not None]
    return known if known and len(known) == len(given) else None
