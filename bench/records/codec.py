"""Records as JSON and back, exactly: one sample, one line, a whole file of lines, and records of older code.

Rounds are stored as one list per field, ``{"drafted": [...], "accepted": [...], ...}``: a tenth of the size
of one object per round, and ready for a data frame.

A line of ``samples.jsonl`` is one sample followed by a checksum of everything before it, so that a flipped
bit is noticed even where the line is still valid JSON. A last line without its newline is torn: a crash cut
it. A damaged line is not what was written; the next start sets it aside. A line that is what was written but
holds no sample that this code knows belongs to other code, and is never touched.

Every record names the schema version it was written with. Reading takes it through one function per step,
from its version to the next and on to `SCHEMA_VERSION`; writing always uses the newest. To change the meaning
of a stored field, raise `SCHEMA_VERSION`, add the step from the version before it here, and keep a file of
the old version under ``tests/records/data``; a new field with a default needs neither.
"""

import gzip
import json
import logging
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from bench.errors import UserError
from bench.records.field_types import ROUND_TYPES, SAMPLE_TYPES, check_types, reason_of
from bench.records.model import SCHEMA_VERSION, Arm, Equivalence, Key, Sample, Timing, Verdict
from bench.records.rounds import DEFAULTS, ROUND_FIELDS, Rounds, Shared

log = logging.getLogger(__name__)

Step = Callable[[dict[str, Any]], dict[str, Any]]
"""From a plain record of one version to one of the next."""

RUN_STEPS: Mapping[int, Step] = {}
"""For ``run.json``, by the version that a step starts from. Version 2 only added fields: no step yet."""
SAMPLE_STEPS: Mapping[int, Step] = {}
"""For one line of ``samples.jsonl``. Ids and rounds keep their meaning: lines of any version share them."""
FIRST_VERSION = 1
"""The version of a record that names none, as the first stored samples."""

_CHECKSUM = re.compile(rb',"crc32":"([0-9a-f]{8})"\}\s*$')
_LONGEST_CHECKSUM = 64
"""Bytes at the end of a line that are searched for its checksum."""
_REPEATED = re.compile(rb'"(ids|rounds)":(?:\[[^][]*\]|\{[^{}]*\})')
"""What lines of a file repeat: exact methods emit the same ids, and rounds are those of any session."""
_EMPTY = {"ids": b"[]", "rounds": b"{}"}


class DamagedLineError(ValueError):
    """A line is not what was written."""


@dataclass(frozen=True, slots=True)
class SampleFile:
    """What a record file holds.

    Args:
        samples: By key: the first good one, or else the last failed one.
        size: Bytes of the lines that hold samples.
        problems: What is wrong with each of the other lines, by line number; file and number are named.
    """

    samples: dict[Key, Sample]
    size: int
    problems: Mapping[int, str]


def upgrade(
    record: Mapping[str, Any], steps: Mapping[int, Step], newest: int = SCHEMA_VERSION
) -> dict[str, Any]:
    """The record as version `newest` would have written it, with ``schema_version`` set to that.

    Args:
        record: As stored; not changed.
        steps: By the version each starts from; a version without a step is stored the same way in the next.
        newest: Version to reach.

    Raises:
        UserError: If this code does not know the record's version.
    """
    version = record.get("schema_version", FIRST_VERSION)
    if not isinstance(version, int) or not FIRST_VERSION <= version <= newest:
        known = f"{FIRST_VERSION}" if newest == FIRST_VERSION else f"{FIRST_VERSION} to {newest}"
        raise UserError(
            f"has schema version {version}, this code knows {known}",
            "use the version of the benchmark that wrote it, or measure again into another folder",
        )
    upgraded = dict(record)
    for start in range(version, newest):
        upgraded = steps[start](upgraded) if start in steps else upgraded
    return upgraded | {"schema_version": newest}


def encode_sample(sample: Sample) -> dict[str, Any]:
    """A sample as plain JSON; times keep every bit."""
    record: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    record |= {named.name: getattr(sample, named.name) for named in fields(sample)}
    record["rounds"] = sample.rounds.columns()
    timing = sample.timing
    record["timing"] = asdict(timing) | {"rounds_s": timing.rounds_s.tolist()} if timing else None
    record["equivalence"] = asdict(sample.equivalence) if sample.equivalence else None
    return record


def decode_sample(
    record: Mapping[str, Any], shared: Shared | None = None, known: Mapping[str, Any] = MappingProxyType({})
) -> Sample:
    """The inverse of `encode_sample`, for records of this schema version and of every earlier one.

    Args:
        record: As read from JSON.
        shared: What earlier samples of the same file hold.
        known: The sample's ``ids`` or ``rounds``, decoded, where the record lacks what they hold.

    Raises:
        UserError: If the schema version is unknown.
        KeyError, TypeError, ValueError, AttributeError: If the record is not a sample.
    """
    plain = upgrade(record, SAMPLE_STEPS)
    del plain["schema_version"]
    check_types(plain, SAMPLE_TYPES, "")
    shared = shared or Shared()
    changed = {
        "arm": Arm(plain["arm"]),
        "ids": known["ids"] if "ids" in known else shared.ids(plain["ids"]),
        "text": shared.texts([plain["text"]])[0],
        "rounds": known["rounds"] if "rounds" in known else _decode_rounds(plain["rounds"], shared),
        "timing": _decode_timing(plain["timing"]),
        "equivalence": _decode_equivalence(plain["equivalence"]),
    }
    sample = Sample(**{**plain, **changed})
    if sample.error is None and len(sample.ids) != (emitted := 1 + int(sample.rounds.emitted.sum())):
        raise ValueError(f"prefill and rounds emitted {emitted} tokens, ids hold {len(sample.ids)}")
    timed = len(sample.timing.rounds_s) if sample.timing else 0
    if timed not in (0, len(sample.rounds)):
        raise ValueError(f"timing.rounds_s holds {timed} rounds, rounds hold {len(sample.rounds)}")
    return sample


def _decode_timing(record: Mapping[str, Any] | None) -> Timing | None:
    return Timing(**{**record, "rounds_s": array("d", record.get("rounds_s", ()))}) if record else None


def _decode_rounds(columns: Mapping[str, list[Any]], shared: Shared) -> Rounds:
    """Rounds from their columns; a column added after the record was written holds its field's default."""
    if unknown := set(columns) - set(ROUND_FIELDS):
        raise KeyError(f"rounds have unknown columns {sorted(unknown)}")
    check_types(columns, ROUND_TYPES, "rounds.")
    lengths = {name: len(column) for name, column in columns.items()}
    count = max(Counter(lengths.values()).items(), key=lambda item: item[1], default=(0, 0))[0]
    for name, length in lengths.items():
        if length != count:
            raise ValueError(f"rounds.{name} holds {length} rounds, other columns hold {count}")
    later = {name: [default] * count for name, default in DEFAULTS.items()}
    return Rounds.from_columns(later | {**columns, "stop": shared.texts(columns["stop"])})


def _decode_equivalence(record: Mapping[str, Any] | None) -> Equivalence | None:
    if record and "verdict" not in record:
        raise KeyError("equivalence.verdict")
    return Equivalence(**{**record, "verdict": Verdict(record["verdict"])}) if record else None


def to_line(sample: Sample) -> bytes:
    """A sample as a line of the file.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps(encode_sample(sample), separators=(",", ":"), allow_nan=False)
    return f'{text[:-1]},"crc32":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def from_line(line: bytes, shared: Shared | None = None) -> Sample:
    """The inverse of `to_line`; also reads lines written before there were checksums.

    Args:
        line: Without its newline.
        shared: What earlier samples of the same file hold.

    Raises:
        DamagedLineError: If the line is not what was written.
        UserError: If its schema version is unknown.
        KeyError, TypeError, ValueError, AttributeError: If it is what was written and no sample.
    """
    checksum = _CHECKSUM.search(line, max(0, len(line) - _LONGEST_CHECKSUM))
    if checksum is None:
        return _without_checksum(line)
    text = line[: checksum.start()] + b"}"
    if zlib.crc32(text) != int(checksum[1], 16):
        raise DamagedLineError("its checksum is that of another line")
    return _repeating(text, shared or Shared())


def _repeating(text: bytes, shared: Shared) -> Sample:
    """The sample of a line. What an earlier line holds too is neither parsed nor checked again."""
    known: dict[str, Any] = {}
    fresh: dict[str, bytes] = {}

    def without_known(part: re.Match[bytes]) -> bytes:
        name, digest = part[1].decode(), blake2b(part[0], digest_size=16).digest()
        if digest not in shared.parts:
            fresh[name] = digest
            return part[0]
        known[name] = shared.parts[digest]
        return b'"%b":%b' % (part[1], _EMPTY[name])

    sample = decode_sample(_parsed(_REPEATED.sub(without_known, text)), shared, known)
    shared.parts.update({digest: getattr(sample, name) for name, digest in fresh.items()})
    return sample


def _parsed(text: bytes) -> dict[str, Any]:
    """A line as JSON."""
    try:
        record = orjson.loads(text)
    except orjson.JSONDecodeError:  # what only json reads, such as NaN, is refused later, with its field
        record = _leniently_parsed(text)
    if not isinstance(record, dict):
        raise TypeError("it is no JSON object")
    return record


def _leniently_parsed(text: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    """As `json` reads it; so deep a nesting that reading it overflows is no JSON of ours."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def _without_checksum(line: bytes) -> Sample:
    """Without a checksum, a line of other code looks like a damaged one, and counts as damaged."""
    try:
        return decode_sample(_parsed(line))
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedLineError(reason_of(error)) from error


def read_samples(path: Path) -> SampleFile:
    """Read a record file, packed or plain; nothing is changed.

    Raises:
        UserError: If the file cannot be read, or if other code wrote a line, with file and line number.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            return _read_lines(path, lines)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is no whole packed file: {error}", "restore it from a copy") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}", "mend its permissions, or restore it"
        ) from error


def _read_lines(path: Path, lines: Iterable[bytes]) -> SampleFile:
    samples: dict[Key, Sample] = {}
    problems: dict[int, str] = {}
    size, shared = 0, Shared()
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            log.warning("%s ends in a torn line, which is dropped: that sample is measured again", path)
            break
        try:
            sample = _parse(line[:-1], f"{path}, line {number}", shared)
        except DamagedLineError as error:
            problems[number] = f"{path}, line {number} is no sample: {error}"
            continue
        size += len(line)
        if sample.key in samples and samples[sample.key].error is None:
            log.warning("%s, line %d: sample %s is there twice, the first counts", path, number, sample.key)
        else:
            samples[sample.key] = sample
    return SampleFile(samples, size, problems)


def _parse(line: bytes, place: str, shared: Shared) -> Sample:
    try:
        return from_line(line, shared)
    except DamagedLineError:
        raise
    except UserError as error:
        raise UserError(f"{place} {error.what}", error.fix) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{place} is no sample that this code knows: {reason_of(error)}",
            "use the code that wrote it, or move the run's folder away to measure it anew",
        ) from error
