"""The record file of a run, line by line: what is whole, what is torn, what is damaged.

A line is one sample and, last, a checksum of all that stands before it, so a flipped bit is found even
where it leaves plain JSON. A last line without its end is torn: a crash cut it. A damaged line is not what
was written; a start sets it aside. A line that is what was written but means nothing to this code is another
code's, and is never touched.
"""

import json
import logging
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError
from bench.records.codec import decode_sample, encode_sample
from bench.records.model import Sample

log = logging.getLogger(__name__)

Key = tuple[str, int, int, str]
"""`Sample.key`: prompt id, turn, repeat, arm."""

DAMAGED_FILE = "samples.damaged.jsonl"
"""Beside the record file: the lines that were set aside, as they were found."""

_CHECKSUM = re.compile(rb',"crc32":"([0-9a-f]{8})"\}\s*$')


class DamagedLineError(ValueError):
    """A line is not what was written."""


@dataclass(frozen=True, slots=True)
class SampleFile:
    """What a record file holds.

    Args:
        samples: By key: the first good one, or else the last failed one.
        whole: The lines that hold samples, each with its newline.
        damaged: The lines that do not, each with its newline.
        problems: What is wrong with each of those, by file and line number.
    """

    samples: dict[Key, Sample]
    whole: Sequence[bytes]
    damaged: Sequence[bytes]
    problems: Sequence[str]


def to_line(sample: Sample) -> bytes:
    """A sample as a line of the file.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps(encode_sample(sample), separators=(",", ":"), allow_nan=False)
    return f'{text[:-1]},"crc32":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def from_line(line: bytes) -> Sample:
    """The inverse of `to_line`; lines written before there were checksums are read as well.

    Args:
        line: Without its newline.

    Raises:
        DamagedLineError: If the line is not what was written.
        UserError: If its schema version is unknown.
        KeyError, TypeError, ValueError, AttributeError: If it is what was written and no sample.
    """
    found = _CHECKSUM.search(line)
    if found is None:
        return _without_checksum(line)
    text = line[: found.start()] + b"}"
    if zlib.crc32(text) != int(found[1], 16):
        raise DamagedLineError("its checksum is that of another line")
    return decode_sample(json.loads(text))


def _without_checksum(line: bytes) -> Sample:
    """Without one, a line that is no sample cannot be told from a damaged one, and counts as such."""
    try:
        return decode_sample(json.loads(line))
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedLineError(repr(error)) from error


def read_samples(path: Path) -> SampleFile:
    """Read a record file; nothing is changed.

    Raises:
        UserError: If a line is of another code, with file and line number.
    """
    *lines, torn = path.read_bytes().split(b"\n")
    if torn:
        log.warning("%s ends in a torn line, which is dropped: that sample is measured again", path)
    found: dict[Key, Sample] = {}
    whole, damaged, problems = list[bytes](), list[bytes](), list[str]()
    for number, line in enumerate(lines, start=1):
        try:
            sample = _parse(line, f"{path}, line {number}")
        except DamagedLineError as error:
            damaged.append(line + b"\n")
            problems.append(f"{path}, line {number} is no sample: {error}")
            continue
        whole.append(line + b"\n")
        if sample.key in found and found[sample.key].error is None:
            log.warning("%s, line %d: sample %s is there twice, the first counts", path, number, sample.key)
        else:
            found[sample.key] = sample
    return SampleFile(found, whole, damaged, problems)


def _parse(line: bytes, place: str) -> Sample:
    try:
        return from_line(line)
    except DamagedLineError:
        raise
    except UserError as error:
        raise UserError(f"{place} {error.what}", error.fix) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{place} is no sample that this code knows: {error!r}",
            "use the code that wrote it, or move the run's folder away to measure it anew",
        ) from error


def set_aside(path: Path, file: SampleFile) -> None:
    """Move the damaged lines of a record file to `DAMAGED_FILE`; a crash in between loses none of them.

    Raises:
        OSError: If that cannot be written.
    """
    aside = path.with_name(DAMAGED_FILE)
    with aside.open("ab") as kept:
        kept.writelines(file.damaged)
        kept.flush()
        os.fsync(kept.fileno())
    write_atomically(path, b"".join(file.whole))
    for problem in file.problems:
        log.warning("%s; it is kept in %s, and what it held is measured again", problem, aside)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, and force it to disk.

    Raises:
        OSError: If it cannot be written; what was there before is intact, and nothing else is left.
    """
    draft = path.with_name(f"{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
