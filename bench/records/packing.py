"""A finished run's samples as one compressed file, a sixth of the size, which every reader takes as it is.

``samples.jsonl.gz`` holds the lines of ``samples.jsonl`` unchanged. A run that is resumed is unpacked first:
lines are appended to plain files alone. Where a crash left both, the plain file counts, for it is complete.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bench.errors import UserError
from bench.records.files import acquire, release, write_bytes

PLAIN, PACKED = "samples.jsonl", "samples.jsonl.gz"


def samples_file(folder: Path) -> Path | None:
    """Where a run folder keeps its samples; None if it has none yet."""
    paths = (folder / PLAIN, folder / PACKED)
    return next((path for path in paths if path.exists()), None)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """The lines of a file of samples, packed or plain.

    Raises:
        UserError: If it cannot be read, or was cut or changed after it was packed.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            yield lines
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is no whole packed file: {error}", "restore it from a copy") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}", "mend its permissions, or restore it"
        ) from error


def pack(folder: Path) -> Path:
    """Replace a run's samples by a packed file; the same lines always give the same bytes.

    Raises:
        UserError: If there are none, or if another process writes to the run.
        OSError: If the file cannot be written; the samples are left as they were.
    """
    plain, packed = folder / PLAIN, folder / PACKED
    if not folder.is_dir() or samples_file(folder) is None:
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
    """Give a run its plain file back, to append to, if it is packed. The caller holds the run's lock.

    Raises:
        UserError: If the packed file is damaged.
        OSError: If the plain one cannot be written.
    """
    packed = folder / PACKED
    if not packed.exists():
        return
    if not (folder / PLAIN).exists():
        with opened(packed) as lines:
            content = lines.read()
        write_bytes(folder / PLAIN, content)
    packed.unlink()
