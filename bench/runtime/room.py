"""Whether a checkpoint's weights fit the memory they are meant for, asked before gigabytes are read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError

from bench.errors import UserError
from bench.runtime.gguf import gguf_parameters, is_gguf, read_gguf
from bench.runtime.modules import count_parameters

GIB = 1 << 30


def require_room(files: Iterable[Path], device: torch.device, dtype: torch.dtype) -> None:
    """Refuse weights that cannot fit; the cache and a CPU's rearranged copies come on top and are not asked.

    Args:
        files: The checkpoint's safetensors files, or its GGUF file.
        device: Where the weights will lie.
        dtype: In which precision.

    Raises:
        UserError: If they need more memory than there is, or a file is damaged.
    """
    needed = sum(_parameters(file) for file in files) * dtype.itemsize
    room = memory_bytes(device)
    if needed > room:
        where = "the GPU has free" if device.type == "cuda" else "this machine has"
        raise UserError(
            f"the weights need {needed / GIB:.1f} GiB in {str(dtype).removeprefix('torch.')}, "
            f"and {where} {room / GIB:.1f} GiB",
            "use a smaller model or a larger device, or runtime.dtype=bfloat16 for float32; spreading a "
            "model over several devices (device_map) is not supported yet",
        )


def memory_bytes(device: torch.device) -> int:
    """Free memory of a GPU, or all memory of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def damaged(file: Path, error: SafetensorError) -> UserError:
    """What to do about a file that is not whole."""
    return UserError(
        f"{file} is damaged or cut short ({error})", "delete it and download the checkpoint again"
    )


def _parameters(file: Path) -> int:
    if is_gguf(file):
        return gguf_parameters(read_gguf(file))
    try:
        return count_parameters(file)
    except SafetensorError as error:
        raise damaged(file, error) from error
