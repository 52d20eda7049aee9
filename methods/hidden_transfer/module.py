"""The projections of hidden transfer and how they are trained; `methods.hidden_transfer.draft` decodes.

Shapes: k steps, N anchors (positions that pseudo rows start from), d width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from bench.runtime.linear import rms_norm
from methods.hidden_transfer.draft import WEIGHT
from methods.hidden_transfer.pseudo_rows import TransferSettings, pseudo_rows
from methods.training.distillation import draft_logits, hits, soft_cross_entropy
from methods.training.rows import TrainingRows

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
        entries = self._settings.transfer(decoder.depth).layers
        return tuple(sorted({*range(entries[0], decoder.depth), *entries}))

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        return {"method": self._name, **asdict(self._settings.transfer(decoder.depth))}

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Sum over steps of `soft_cross_entropy` where the drafted token belongs to an answer.

        Also logged: how often the target's choice is each step's best candidate, or among its best five.
        """
        transfer = self._settings.transfer(decoder.depth)
        anchors = choose_anchors(rows, decoder.capacity - len(transfer.layers), self._anchors)
        positions = rows.positions
        pseudo = pseudo_rows(transfer, module.get_parameter(WEIGHT), rows.hidden, positions, anchors, decoder)
        row_of = rows.mask.cumsum(0) - 1  # position -> its row in `rows.likely`
        loss, figures = pseudo.new_zeros(()), dict[str, float]()
        for step, drafted in enumerate(pseudo, start=1):
            ahead = (anchors + step).clamp_max(rows.ids.numel() - 1)
            is_same = positions[ahead] == positions[anchors] + step  # the same dialogue's
            is_trained = rows.mask[ahead] & is_same
            likely = rows.likely[row_of[ahead[is_trained]]]
            normed = rms_norm(drafted[is_trained], decoder.final_norm, decoder.config.norm_eps)
            logits, places = draft_logits(normed, rows.head), rows.head.places(likely.ids)
            loss = loss + soft_cross_entropy(logits, likely, places)[0]
            figures |= hits(logits, places[:, 0], step)
        return loss, figures


def choose_anchors(rows: TrainingRows, end: int, most: int) -> Tensor:
    """Answer positions before `end` of a dialogue, ascending, up to `most` for each dialogue of a batch.

    Always the same for the same batch.
    """
    positions = (rows.mask & (rows.positions < end)).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(int(rows.ids.sum()))
    order = torch.randperm(positions.numel(), generator=generator)[: most * len(rows.lengths)]
    return positions[order.sort().values.to(positions.device)]


class Projections(nn.Module):
    """The trained module: a square matrix per step, no bias; ``k d^2`` parameters."""

    def __init__(self, steps: int, width: int) -> None:
        super().__init__()
        self.projections = nn.Parameter(torch.randn(steps, width, width) * (INIT_GAIN / width**0.5))
