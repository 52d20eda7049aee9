"""Weights in 8 bits: whole numbers and one scale per row, half the size of bfloat16.

For modules that must be small to ship: a matrix is restored when its file is read, number times scale, and a
run computes in its own precision. And for the head that drafts (``runtime.draft_head=int8``): the compiled
product reads the numbers as they are.

In a file ``NAME`` holds int8 numbers, shape [rows, columns], and ``NAME`` with
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
    """`tensors` with every large matrix as int8 numbers and the scales of its rows, see `rounded`."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or tensor.numel() < LEAST_NUMBERS:
            stored[name] = tensor
            continue
        stored[name], stored[name + SCALES] = rounded(tensor)
    return stored


def rounded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers [O, I], int8, and scales [O, 1], fp32, whose products are nearest to a matrix [O, I].

    A product is off by at most half a scale, which is a 254th of its row's largest.
    """
    rows = matrix.float()
    scales = rows.abs().amax(dim=1, keepdim=True) / LARGEST
    scales[scales == 0] = 1  # a row of zeros
    return (rows / scales).round().to(torch.int8), scales


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
