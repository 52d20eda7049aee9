"""Small host tensors on their way to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(numbers: Tensor, device: torch.device) -> Tensor:
    """`numbers` on the device; the host does not wait for it.

    A copy from ordinary memory makes the host wait until the device is done; one from pinned memory does not.
    """
    if device.type != "cuda" or numbers.is_cuda:
        return numbers
    return numbers.pin_memory().to(device, non_blocking=True)
