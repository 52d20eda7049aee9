"""What a safetensors file tells without torch: its tensors by their header, and a hash of their numbers.

A file begins with the length of its header (8 bytes, little-endian) and the header, a JSON object with type,
shape and place of every tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open

from bench.errors import UserError
from bench.runtime.checkpoint_files import require_file

ANY_SIZE = 1 << 62
SCALES = ".int8_scales"
"""Ends the name of the scales of a matrix stored in 8 bits; see `bench.runtime.int8_rows`."""
_WHOLE_BYTES, _PIECES, _PIECE_BYTES = 1 << 16, 4, 1 << 12


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file.

    Args:
        file: The file.
        name: Its name there.
        dtype: Type of its numbers, as the file names it.
        shape: Its shape.
        start: Place of its first byte in the file.
        stop: Place after its last byte.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_weights_header(file: Path) -> list[StoredTensor]:
    """As `read_header`, without the scales of matrices that are stored in 8 bits: what a model is made of."""
    return [entry for entry in read_header(file) if not entry.name.endswith(SCALES)]


def read_header(file: Path) -> list[StoredTensor]:
    """All tensors of a safetensors file; their numbers are not read.

    Raises:
        UserError: If the file is missing, damaged or cut short, or a git-lfs pointer.
    """
    require_file(file, ANY_SIZE)
    try:
        with safe_open(file, framework="np"):  # checks the header, and the file's length
            pass
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header: dict[str, Any] = json.loads(opened.read(size))
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(file, error) from error
    return [
        StoredTensor(file, name, entry["dtype"], tuple(entry["shape"]), *_places(entry, 8 + size))
        for name, entry in header.items()
        if name != "__metadata__"
    ]


def _places(entry: Mapping[str, Any], data: int) -> tuple[int, int]:
    start, stop = entry["data_offsets"]
    return data + start, data + stop


def count_parameters(file: Path) -> int:
    """Elements of all tensors in a safetensors file.

    Raises:
        UserError: As `read_weights_header`.
    """
    return sum(prod(entry.shape) for entry in read_weights_header(file))


def tensors_hash(files: Iterable[Path]) -> str:
    """64 hex digits over name, type, shape and pieces of every tensor, however they are spread over files.

    Raises:
        UserError: If a file is damaged.
    """
    entries = sorted((entry for file in files for entry in read_header(file)), key=lambda entry: entry.name)
    digest = hashlib.sha256()
    opened: dict[Path, IO[bytes]] = {}
    try:
        for entry in entries:
            if entry.file not in opened:
                opened[entry.file] = entry.file.open("rb")
            digest.update(f"{entry.name} {entry.dtype} {entry.shape}\n".encode())
            hash_pieces(digest, opened[entry.file], entry.start, entry.stop)
    finally:
        for file in opened.values():
            file.close()
    return digest.hexdigest()


def hash_pieces(digest: hashlib._Hash, file: IO[bytes], start: int, stop: int) -> None:
    """Add bytes of a tensor to a hash: all of a small one, of others four pieces from the first to the last.

    Args:
        digest: The hash.
        file: Opened for reading.
        start: Place of the tensor's first byte.
        stop: Place after its last byte.
    """
    if stop - start <= _WHOLE_BYTES:
        file.seek(start)
        digest.update(file.read(stop - start))
        return
    last = stop - _PIECE_BYTES
    for piece in range(_PIECES):
        file.seek(start + (last - start) * piece // (_PIECES - 1))
        digest.update(file.read(_PIECE_BYTES))


def damaged(file: Path, error: Exception) -> UserError:
    """The message about a file that is not whole."""
    return UserError(
        f"{file} is damaged or cut short ({error})", "delete it and download the checkpoint again"
    )
