"""Arrays on disk that are read and written through memory, so that they may be larger than it.

An array has its own file, raw, in the machine's byte order; its shape and element type are not stored in it.
"""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import UserError
from bench.show.layout import byte_size


def array(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor whose storage is the file; writing to the one changes the other.

    The file is created with zeros if it is not there.

    Args:
        path: The file.
        shape: At least one element.
        dtype: Element type.

    Raises:
        UserError: If the disk has no room for it, or the file has another size.
    """
    size = prod(shape) * dtype.itemsize
    if not path.exists():
        _allocate(path, size)
    if path.stat().st_size != size:
        raise UserError(
            f"{path} holds {path.stat().st_size} bytes, and {size} belong there",
            "Delete the folder; the same command fills it again.",
        )
    return torch.from_file(str(path), shared=True, size=prod(shape), dtype=dtype).view(shape)


def _allocate(path: Path, size: int) -> None:
    """Reserve the room on the disk: without it, a write through memory would kill the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        path.unlink()
        raise UserError(
            f"{path} cannot be made: {error.strerror} ({byte_size(size)})",
            "Free room, set cache to a folder on a larger disk, or take fewer dialogues by data.draw.",
        ) from error
    finally:
        os.close(descriptor)
