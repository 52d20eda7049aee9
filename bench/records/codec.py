"""A sample as plain JSON and back, exactly.

Rounds are stored as one list per field, ``{"drafted": [...], "accepted": [...], ...}``: a tenth of the size
of one object per round, and ready for a data frame. Every record names its schema version.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields
from typing import Any

from bench.records.model import SCHEMA_VERSION, Arm, Equivalence, Round, Sample, Timing, Verdict
from bench.records.upgrade import SAMPLE_STEPS, upgrade

ROUND_FIELDS = tuple(field.name for field in fields(Round))


def encode_sample(sample: Sample) -> dict[str, Any]:
    """A sample as plain JSON; times keep every bit."""
    record: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    record |= {field.name: getattr(sample, field.name) for field in fields(sample)}
    record["rounds"] = {name: [getattr(one, name) for one in sample.rounds] for name in ROUND_FIELDS}
    record["timing"] = asdict(sample.timing) if sample.timing else None
    record["equivalence"] = asdict(sample.equivalence) if sample.equivalence else None
    return record


def decode_sample(record: Mapping[str, Any]) -> Sample:
    """The inverse of `encode_sample`, for records of this schema version and of every earlier one.

    Raises:
        UserError: If the schema version is unknown.
        KeyError, TypeError, ValueError, AttributeError: If the record is not a sample.
    """
    plain = upgrade(record, SAMPLE_STEPS)
    del plain["schema_version"]
    timing = plain["timing"]
    changed = {
        "arm": Arm(plain["arm"]),
        "ids": tuple(plain["ids"]),
        "rounds": _decode_rounds(plain["rounds"]),
        "timing": Timing(**timing) if timing else None,
        "equivalence": _decode_equivalence(plain["equivalence"]),
    }
    return Sample(**{**plain, **changed})


def _decode_rounds(columns: Mapping[str, list[Any]]) -> tuple[Round, ...]:
    """Rounds from their columns; a column that came later holds its field's default."""
    if unknown := set(columns) - set(ROUND_FIELDS):
        raise KeyError(f"rounds have unknown columns {sorted(unknown)}")
    count = len(columns[ROUND_FIELDS[0]])
    rows = zip(*(_column(columns, field, count) for field in fields(Round)), strict=True)
    return tuple(Round(*row) for row in rows)


def _column(columns: Mapping[str, list[Any]], field: Field[Any], count: int) -> list[Any]:
    if field.name in columns or field.default is MISSING:
        return columns[field.name]
    return [field.default] * count


def _decode_equivalence(record: Mapping[str, Any] | None) -> Equivalence | None:
    return Equivalence(**{**record, "verdict": Verdict(record["verdict"])}) if record else None
