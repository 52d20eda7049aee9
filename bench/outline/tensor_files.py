"""The headers of safetensors files: names, types, shapes and places of tensors, and a hash of their numbers.

`bench.runtime.stored_tensors` reads the same headers on the way to a decoder, and imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

from safetensors import SafetensorError, safe_open

from bench.errors import UserError
from bench.runtime.checkpoint_files import require_file

_ANY_SIZE = 1 << 62
_WHOLE_BYTES, _PIECES, _PIECE_BYTES = 1 << 16, 4, 1 << 12


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: its name, type and shape there, its first byte and the one after its last."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_entries(file: Path) -> list[TensorEntry]:
    """All tensors of a safetensors file; their numbers are not read.

    Raises:
        UserError: If the file is missing, damaged or cut short, or a git-lfs pointer.
    """
    require_file(file, _ANY_SIZE)
    try:
        with safe_open(file, framework="np"):  # checks the header, and the file's length
            pass
        with file.open("rb") as opened:
            data = 8 + (size := int.from_bytes(opened.read(8), "little"))
            header = json.loads(opened.read(size))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{file} is damaged or cut short ({error})", "delete it and download the checkpoint again"
        ) from error
    return [
        TensorEntry(
            file,
            name,
            entry["dtype"],
            tuple(entry["shape"]),
            data + entry["data_offsets"][0],
            data + entry["data_offsets"][1],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    ]


def count_parameters(file: Path) -> int:
    """Elements of all tensors in a safetensors file.

    Raises:
        UserError: As `read_entries`.
    """
    return sum(prod(entry.shape) for entry in read_entries(file))


def tensors_hash(files: Iterable[Path]) -> str:
    """64 hex digits over name, type, shape and pieces of every tensor, however they are spread over files.

    Raises:
        UserError: If a file is damaged.
    """
    entries = sorted((entry for file in files for entry in read_entries(file)), key=lambda entry: entry.name)
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
