"""The projections of hidden transfer and how they are trained; `methods.hidden_transfer.draft` decodes.

Shapes: k steps, N anchors (positions that pseudo rows start from), d width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from bench.runtime.linear import rms_norm
from methods.core.base import TrainingRows
from methods.hidden_transfer.draft import WEIGHT
from methods.hidden_transfer.pseudo_rows import TransferSettings, pseudo_rows

INIT_GAIN = 0.2
"""A pseudo row starts as a short vector; a gain of 1 trained worse on a toy model."""


class HiddenTransferTrainer:
    """Trains the projections; see `methods.core.base.ModuleTrainer`.

    Args:
        name: Of the method, as stored next to the weights.
        settings: The transfer to train.
        anchors: Most positions of a sequence that a training step takes.
    """

    def __init__(self, name: str, settings: TransferSettings, anchors: int) -> None:
        self._name, self._settings, self._anchors = name, settings, anchors

    def new_module(self, decoder: Decoder) -> nn.Module:
        return Projections(len(self._settings.transfer(decoder.depth).layers), decoder.config.width)

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        return tuple(range(self._settings.transfer(decoder.depth).layers[0], decoder.depth + 1))

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        return {"method": self._name, **asdict(self._settings.transfer(decoder.depth))}

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Sum over steps of the mean KL(target || step) where the drafted token belongs to an answer.

        Also logged: how often the target's choice is each step's best candidate, or among its best five.
        """
        transfer, total = self._settings.transfer(decoder.depth), rows.ids.numel()
        anchors = choose_anchors(rows, decoder.capacity - len(transfer.layers), self._anchors)
        pseudo = pseudo_rows(transfer, module.get_parameter(WEIGHT), rows.hidden, anchors, decoder)
        loss, figures = pseudo.new_zeros(()), dict[str, float]()
        for step, drafted in enumerate(pseudo, start=1):
            ahead = (anchors + step).clamp_max(total - 1)
            is_trained = rows.mask[ahead]  # False at the last position, where the clamp leads
            targets = rows.hidden[decoder.depth][ahead[is_trained]]
            normed = rms_norm(drafted[is_trained], decoder.final_norm, decoder.config.norm_eps)
            student = F.linear(normed, decoder.lm_head.weight, decoder.lm_head.bias)
            student = student.float().log_softmax(dim=-1)
            teacher = decoder.head(targets).float().log_softmax(dim=-1)
            count = max(1, targets.shape[0])
            loss = loss + F.kl_div(student, teacher, reduction="sum", log_target=True) / count
            hits = student.topk(5, dim=-1).indices == teacher.argmax(dim=-1, keepdim=True)  # [n, 5]
            figures[f"top1_{step}"] = float(hits[:, 0].sum()) / count
            figures[f"top5_{step}"] = float(hits.sum()) / count
        return loss, figures


def choose_anchors(rows: TrainingRows, end: int, most: int) -> Tensor:
    """Up to `most` answer positions before `end`, ascending; always the same for the same sequence."""
    positions = rows.mask[:end].nonzero()[:, 0]
    generator = torch.Generator().manual_seed(int(rows.ids.sum()))
    order = torch.randperm(positions.numel(), generator=generator)[:most]
    return positions[order.sort().values.to(positions.device)]


class Projections(nn.Module):
    """The trained module: a square matrix per step, no bias; ``k d^2`` parameters."""

    def __init__(self, steps: int, width: int) -> None:
        super().__init__()
        self.projections = nn.Parameter(torch.randn(steps, width, width) * (INIT_GAIN / width**0.5))
