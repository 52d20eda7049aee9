"""A finished run's samples as one compressed file, a sixth of the size, which every reader takes as it is.

``samples.jsonl.gz`` holds the lines of ``samples.jsonl`` unchanged. A run that is resumed is unpacked first:
lines are appended to plain files alone. Where a crash left both, the plain file counts, for it is complete.
"""

from __future__ import annotations

import gzip
from pathlib import Path

from bench.errors import UserError
from bench.records.codec import read_samples
from bench.records.files import acquire, release, write_bytes

PLAIN, PACKED = "samples.jsonl", "samples.jsonl.gz"


def pack(folder: Path) -> Path:
    """Replace a run's samples by a packed file; the same lines always give the same bytes.

    Raises:
        UserError: If there are none, or if another process writes to the run.
        OSError: If the file cannot be written; the samples are left as they were.
    """
    plain, packed = folder / PLAIN, folder / PACKED
    if not (plain.exists() or packed.exists()):
        raise UserError(f"{folder} is no run with samples", "give the folder of a measured run")
    lock = acquire(folder)
    try:
        if plain.exists():
            content = plain.read_bytes()
            write_bytes(packed, gzip.compress(content, 9, mtime=0))
            if gzip.decompress(packed.read_bytes()) == content:
                plain.unlink()
    finally:
        release(lock)
    return packed


def unpack(folder: Path) -> None:
    """Give a packed run its plain file back, to append to. The caller holds the run's lock.

    Raises:
        UserError: If the packed file is damaged.
        OSError: If the plain one cannot be written.
    """
    packed = folder / PACKED
    if not (folder / PLAIN).exists():
        read_samples(packed)  # refuses a damaged file
        write_bytes(folder / PLAIN, gzip.decompress(packed.read_bytes()))
    packed.unlink()
