"""Samples as tidy tables for notebooks and plots: one row per turn, or one row per round.

Columns carry their unit (``_s``, ``_bytes``); counts and times only, ratios are left to
`bench.metrics.counts`. Failed samples are rows with an `error` and missing numbers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.records.model import PHASES, Sample
from bench.records.rounds import ROUND_FIELDS

if TYPE_CHECKING:
    import pandas as pd

_KEY = ("prompt_id", "subtask", "turn", "repeat", "arm")
_COUNTS = ("output_tokens", "rounds", "drafted", "accepted")
_TIMES = ("prefill_s", "decode_s", *(f"{name}_s" for name in PHASES), "host_s", "cpu_s")
_EQUIVALENCE = ("verdict", "first_divergence", "margin", "tie_margin", "rank")
_PEAKS = ("peak_memory_bytes", "peak_reserved_bytes")
_PLAIN = ("order", "attempt", "prompt_tokens", "prompt_hash", *_PEAKS, "energy_j", "error")

_FLOATS = (*_TIMES, "energy_j", "margin", "tie_margin")
_INTEGERS = (
    *("turn", "repeat", "order", "attempt", "prompt_tokens", *_PEAKS, "first_divergence", "rank"),
    *_COUNTS,
)


def to_frame(samples: Sequence[Sample]) -> "pd.DataFrame":
    """One row per sample, with its counts, times and verdict."""
    import pandas as pd

    rows = [_row(sample) for sample in samples]
    frame = pd.DataFrame(rows, columns=[*_KEY, *_PLAIN, *_COUNTS, *_TIMES, *_EQUIVALENCE])
    return frame.astype(dict.fromkeys(_INTEGERS, "Int64") | dict.fromkeys(_FLOATS, "float64"))


def rounds_frame(samples: Sequence[Sample]) -> "pd.DataFrame":
    """One row per round, in order; ``round`` counts from 0 within its sample."""
    import pandas as pd

    rows = [
        (*_key(sample), i, *row)
        for sample in samples
        for i, row in enumerate(zip(*sample.rounds.columns().values(), strict=True))
    ]
    frame = pd.DataFrame(rows, columns=[*_KEY, "round", *ROUND_FIELDS])
    counts = ("turn", "repeat", "round", "drafted", "accepted", "emitted", "depth", "exit_layer")
    return frame.astype(dict.fromkeys(counts, "Int64"))


def _key(sample: Sample) -> tuple[Any, ...]:
    return (sample.prompt_id, sample.subtask, sample.turn, sample.repeat, sample.arm.value)


def _row(sample: Sample) -> dict[str, Any]:
    row = dict(zip(_KEY, _key(sample), strict=True))
    row |= {name: getattr(sample, name) for name in _PLAIN}
    if sample.timing:  # a failed sample has no counts and no times, which is not the same as zero
        row |= _counts(sample) | _times(sample)
    if sample.equivalence:
        row |= {name: getattr(sample.equivalence, name) for name in _EQUIVALENCE}
        row["verdict"] = sample.equivalence.verdict.value
    return row


def _counts(sample: Sample) -> dict[str, int]:
    rounds = sample.rounds
    values = (len(sample.ids), len(rounds), int(rounds.drafted.sum()), int(rounds.accepted.sum()))
    return dict(zip(_COUNTS, values, strict=True))


def _times(sample: Sample) -> dict[str, float | None]:
    if not (timing := sample.timing):
        return {}
    values = (timing.prefill_s, timing.decode_s, *(timing.phases_s.get(name) for name in PHASES))
    return dict(zip(_TIMES, (*values, timing.host_s, timing.cpu_s), strict=True))
