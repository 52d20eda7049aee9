"""The header of a safetensors file: names, types, shapes and places of its tensors. Imports no torch.

A file begins with the length of its header (8 bytes, little-endian) and the header, a JSON object with type,
shape and place of every tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bench.errors import UserError
from bench.runtime.checkpoint_files import require_file

ANY_SIZE = 1 << 62
SCALES = ".int8_scales"
"""Ends the name of the scales of a matrix stored in 8 bits; see `bench.runtime.int8_rows`."""


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


def damaged(file: Path, error: Exception) -> UserError:
    """The message about a file that is not whole."""
    return UserError(
        f"{file} is damaged or cut short ({error})", "delete it and download the checkpoint again"
    )
