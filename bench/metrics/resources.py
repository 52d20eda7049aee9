"""Memory and energy of one arm: pure functions of its samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.records.model import Sample


@dataclass(frozen=True, slots=True)
class Resources:
    """What an arm took; None where it was not measured, as on a CPU.

    Args:
        allocated_bytes: Most that PyTorch had allocated, weights and cache included.
        reserved_bytes: Most that its allocator held.
        joules_per_token: Energy of the whole GPU over output tokens, prefill included, sum over sum.
    """

    allocated_bytes: int | None
    reserved_bytes: int | None
    joules_per_token: float | None


UNMEASURED = Resources(None, None, None)


def resources(samples: Sequence[Sample]) -> Resources:
    """Peaks and energy over all samples of an arm; a missing reading leaves the figure unknown."""
    joules = _all_known(one.energy_j for one in samples)
    allocated = _all_known(one.peak_memory_bytes for one in samples)
    reserved = _all_known(one.peak_reserved_bytes for one in samples)
    return Resources(
        allocated_bytes=None if allocated is None else int(max(allocated)),
        reserved_bytes=None if reserved is None else int(max(reserved)),
        joules_per_token=None if joules is None else sum(joules) / sum(len(one.ids) for one in samples),
    )


def _all_known(readings: Iterable[float | None]) -> list[float] | None:
    """The readings, or None where one is missing or there is none."""
    found = list(readings)
    known = [one for one in found if one is not None]
    return known if known and len(known) == len(found) else None
