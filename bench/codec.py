"""A sample as plain JSON and back, exactly.

Rounds are stored as one list per field, ``{"drafted": [...], "accepted": [...], ...}``: a tenth of the size
of one object per round, and ready for a data frame.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from bench.records import Arm, Equivalence, Round, Sample, Timing, Verdict

ROUND_FIELDS = tuple(field.name for field in fields(Round))


def encode_sample(sample: Sample) -> dict[str, Any]:
    """A sample as plain JSON; times keep every bit."""
    record = {field.name: getattr(sample, field.name) for field in fields(sample)}
    record["rounds"] = {name: [getattr(one, name) for one in sample.rounds] for name in ROUND_FIELDS}
    record["timing"] = asdict(sample.timing) if sample.timing else None
    record["equivalence"] = asdict(sample.equivalence) if sample.equivalence else None
    return record


def decode_sample(record: Mapping[str, Any]) -> Sample:
    """The inverse of `encode_sample`.

    Raises:
        KeyError, TypeError, ValueError: If the record is not a sample.
    """
    columns, timing = record["rounds"], record["timing"]
    rows = zip(*(columns[name] for name in ROUND_FIELDS), strict=True)
    changed = {
        "arm": Arm(record["arm"]),
        "ids": tuple(record["ids"]),
        "rounds": tuple(Round(*row) for row in rows),
        "timing": Timing(**timing) if timing else None,
        "equivalence": _decode_equivalence(record["equivalence"]),
    }
    return Sample(**{**record, **changed})


def _decode_equivalence(record: Mapping[str, Any] | None) -> Equivalence | None:
    return Equivalence(**{**record, "verdict": Verdict(record["verdict"])}) if record else None
