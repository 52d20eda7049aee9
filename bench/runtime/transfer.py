"""Copies small tensors between the host and the device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(numbers: Tensor, device: torch.device) -> Tensor:
    """`numbers` on `device`, copied without making the host wait.

    A copy from ordinary host memory would wait until the device has finished its work; one from pinned memory
    does not.
    """
    if device.type != "cuda" or numbers.is_cuda:
        return numbers
    return numbers.pin_memory().to(device, non_blocking=True)


def begin_download(numbers: Tensor) -> Tensor:
    """A copy of `numbers` on the host, which holds them once the host has next waited for the device.

    The device works in order, so whatever the host waits for next comes after this copy.
    """
    if not numbers.is_cuda:
        return numbers
    held = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    return held.copy_(numbers, non_blocking=True)
