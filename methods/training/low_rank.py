"""Frozen projections that learn a low-rank change (LoRA, arXiv 2106.09685).

Shapes: I inputs, O outputs, r rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRankLinear(nn.Module):
    """``x W' + x A' B'``: W and the bias are frozen; B starts from zero, so nothing is changed at first.

    Args:
        linear: The projection, whose tensors are taken over.
        rank: Of the change.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        self.weight, self.bias = linear.weight.requires_grad_(False), linear.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Shape [..., I] to [..., O]."""
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.lora_A), self.lora_B)


def freeze(module: nn.Module, rank: int) -> None:
    """Freeze all weights of a module; each of its projections learns a change of this rank instead."""
    module.requires_grad_(False)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, LowRankLinear(child, rank))
