"""What identifies safetensors files: the number of their elements, and a hash of their numbers. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import IO

from bench.runtime.tensor_header import read_header, read_weights_header

_WHOLE_BYTES, _PIECES, _PIECE_BYTES = 1 << 16, 4, 1 << 12


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
