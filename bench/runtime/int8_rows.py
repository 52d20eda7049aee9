"""Weights stored in 8 bits: whole numbers and one scale per row, half the size of bfloat16 on disk.

For modules that must be small to ship. A run computes in its own precision: a matrix is restored when its
file is read, number times scale. ``NAME`` then holds int8 numbers, shape [rows, columns], and ``NAME`` with
`bench.runtime.tensor_header.SCALES` after it fp32 scales, shape [rows, 1]. Quantised checkpoints of other
libraries are laid out in other ways; they stay refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.runtime.tensor_header import SCALES

LARGEST = 127
LEAST_NUMBERS = 4096
"""Matrices with fewer stay as they are: they save nothing."""


def in_int8(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with every large matrix as int8 numbers and the scales of its rows.

    A number is off by at most half a scale, which is a 254th of its row's largest.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or tensor.numel() < LEAST_NUMBERS:
            stored[name] = tensor
            continue
        rows = tensor.float()
        scales = rows.abs().amax(dim=1, keepdim=True) / LARGEST
        scales[scales == 0] = 1  # a row of zeros
        stored[name] = (rows / scales).round().to(torch.int8)
        stored[name + SCALES] = scales
    return stored


def restored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with every int8 matrix that has fitting scales as fp32; all others are left as they are."""
    plain = dict(tensors)
    for name, numbers in tensors.items():
        scales = tensors.get(name + SCALES)
        if scales is None or numbers.dtype != torch.int8 or scales.shape != (*numbers.shape[:1], 1):
            continue
        plain[name] = numbers * scales
        del plain[name + SCALES]
    return plain
