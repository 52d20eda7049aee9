"""What loading experts cost a method: how often they were there, what was read, how long the model waited.

Such a method counts these in every sample, of decoding alone: ``experts_needed`` (experts that rows used, by
pass and layer), ``experts_hit`` (of these, in the fast store), ``experts_late`` (on their way because of a
prediction), ``experts_loaded``, ``experts_wasted`` (predicted, loaded and evicted unused), ``expert_bytes``
(read from slow memory) and ``expert_stall_us`` (microseconds that the model waited for experts). Beside them
stand ``expert_slots`` (experts that the fast store has room for) and, in newer records, ``experts_in_all``
(of the model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.metrics.counts import UndefinedError
from bench.records.model import Sample


@dataclass(frozen=True, slots=True)
class ExpertFigures:
    """Pooled over samples; a token is one that a decode pass emitted.

    Args:
        hit: Share of the needed experts that were in the fast store.
        late: Share that was on its way.
        wasted: Share of the loads that were of no use; None where nothing was loaded.
        bytes_per_token: Read from slow memory.
        stall_s_per_token: Time that the model waited.
        stall: Share of decode time that it waited.
        slots: Experts that the fast store has room for, of all layers together.
        total: Experts of the model; None in records that do not say.
    """

    hit: float
    late: float
    wasted: float | None
    bytes_per_token: float
    stall_s_per_token: float
    stall: float
    slots: int
    total: int | None


def expert_figures(samples: Sequence[Sample]) -> ExpertFigures:
    """The figures of a method that loads experts.

    Raises:
        UndefinedError: If no sample is of such a method, or none decoded more than its first token.
    """
    loading = [sample for sample in samples if sample.counts.get("experts_needed")]
    tokens = sum(len(sample.ids) - 1 for sample in loading)
    decode_s = sum(sample.timing.decode_s for sample in loading if sample.timing is not None)
    if not tokens or not decode_s:
        raise UndefinedError("expert_figures needs decoded tokens of a method that loads experts")
    needed, hit, late, loaded, wasted, read, stall_us = (
        sum(sample.counts[name] for sample in loading)
        for name in (
            "experts_needed",
            "experts_hit",
            "experts_late",
            "experts_loaded",
            "experts_wasted",
            "expert_bytes",
            "expert_stall_us",
        )
    )
    return ExpertFigures(
        hit=hit / needed,
        late=late / needed,
        wasted=wasted / loaded if loaded else None,
        bytes_per_token=read / tokens,
        stall_s_per_token=1e-6 * stall_us / tokens,
        stall=1e-6 * stall_us / decode_s,
        slots=loading[0].counts["expert_slots"],
        total=loading[0].counts.get("experts_in_all"),
    )
