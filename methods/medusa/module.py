"""Medusa's heads and how they are trained, arXiv 2401.10774 (Medusa-1); `methods.medusa.draft` decodes.

Shapes: T positions, M positions that are trained, d width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from bench.runtime.linear import rms_norm
from methods.training.distillation import hits
from methods.training.rows import TrainingRows


class MedusaTrainer:
    """Trains the heads; see `methods.core.base.ModuleTrainer`.

    Args:
        name: Of the method, as stored next to the weights.
        heads: How many to train (H).
        decay: Head k = 1..H weighs ``decay ** k`` in the loss.
    """

    def __init__(self, name: str, heads: int, decay: float) -> None:
        self._name, self._heads, self._decay = name, heads, decay

    def new_module(self, decoder: Decoder) -> nn.Module:
        config = decoder.config
        module = MedusaHeads(config.width, config.vocab, self._heads)
        for head in module:
            head.get_parameter("1.weight").data.copy_(decoder.lm_head.weight)
        return module

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        return (decoder.depth,)

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        return {"method": self._name, "heads": self._heads, "decay": self._decay}

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Sum over heads of decay^k times the mean cross-entropy of head k against token t + k + 1 (eq. 1).

        A position counts for head k where that token belongs to an answer. Also logged: ``top1_k`` and
        ``top5_k``, how often the token is the head's best candidate, or among its best five.
        """
        hidden = rows.hidden[decoder.depth]
        normed = rms_norm(hidden, decoder.final_norm, decoder.config.norm_eps).float()
        total = normed.new_zeros(())
        figures: dict[str, float] = {}
        for k, head in enumerate(module.children(), start=1):
            inputs, labels = _pairs(normed, rows, k)
            count = max(1, labels.numel())  # a mean over no answer token would be NaN
            logits = head(inputs)
            total = total + self._decay**k * F.cross_entropy(logits, labels, reduction="sum") / count
            figures |= hits(logits, labels, k)
        return total, figures


def _pairs(normed: Tensor, rows: TrainingRows, k: int) -> tuple[Tensor, Tensor]:
    """Inputs [M, d] of head k and their labels [M], the answer tokens k + 1 places ahead."""
    is_answer = rows.mask[k:-1]  # whether token t + k + 1 is an answer token, for t = 0, 1, ...
    is_taught = is_answer & (rows.positions[k:-1] >= k)  # and t lies in the same dialogue
    return normed[: -k - 1][is_taught], rows.ids[k + 1 :][is_taught]


class ResBlock(nn.Module):
    """``x + SiLU(W x + b)``, W starts at zero (section 2.2.1); tensors are named as in the authors' code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.silu(self.linear(x))


class MedusaHeads(nn.ModuleList):
    """H heads of one residual block and an LM head each: ``d^2 + d + d V`` parameters per head.

    Tensor names are those of the published checkpoints: ``{k}.0.linear.weight``, ``{k}.0.linear.bias``,
    ``{k}.1.weight``.
    """

    def __init__(self, width: int, vocab: int, heads: int) -> None:
        blocks = (nn.Sequential(ResBlock(width), nn.Linear(width, vocab, bias=False)) for _ in range(heads))
        super().__init__(blocks)
