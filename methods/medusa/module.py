"""Medusa's heads and how they are trained, arXiv 2401.10774 (Medusa-1); `methods.medusa.draft` decodes.

Shapes: T positions, M positions that are trained, d width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from bench.runtime.linear import rms_norm
from bench.runtime.sampling import OUTSIDE
from methods.medusa.draft import HeadLayout
from methods.training.distillation import draft_logits, hits, soft_cross_entropy
from methods.training.rows import TrainingRows


class MedusaTrainer:
    """Trains the heads; see `methods.core.base.ModuleTrainer`.

    Args:
        name: Of the method, as stored next to the weights.
        layout: The heads to train.
        decay: Head k = 1..H weighs ``decay ** k`` in the loss.
        soft: Learn the target's distribution at each place instead of the token that stands there.
    """

    def __init__(self, name: str, layout: HeadLayout, decay: float, *, soft: bool) -> None:
        self._name, self._layout, self._decay, self._soft = name, layout, decay, soft

    def new_module(self, decoder: Decoder) -> nn.Module:
        config = decoder.config
        layout = self._layout
        module = MedusaHeads(config.width, config.vocab, layout)
        if layout.own_lm_heads:
            for head in module:
                head.get_parameter(f"{layout.blocks}.weight").data.copy_(decoder.lm_head.weight)
        return module

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        return (decoder.depth,)

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        layout = {"heads": self._layout.heads, "blocks": self._layout.blocks}
        layout["own_lm_heads"] = self._layout.own_lm_heads
        return {"method": self._name, **layout, "decay": self._decay, "soft": self._soft}

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Sum over heads of decay^k times the mean cross-entropy of head k against token t + k + 1 (eq. 1).

        A position counts for head k where that token belongs to an answer. With `soft`, the target's
        likeliest tokens there and their probabilities take the place of the token. Also logged: ``top1_k``
        and ``top5_k``, how often the token is the head's best candidate, or among its best five.
        """
        hidden = rows.hidden[decoder.depth]
        normed = rms_norm(hidden, decoder.final_norm, decoder.config.norm_eps).float()
        order = rows.mask.cumsum(0) - 1  # of a trained position among all trained ones
        total = normed.new_zeros(())
        figures: dict[str, float] = {}
        for k, head in enumerate(module.children(), start=1):
            taught = _taught(rows, k)
            labels, likely = rows.ids[taught + k + 1], rows.likely[order[taught + k]]
            logits = head(normed[taught])
            if not self._layout.own_lm_heads:
                logits, labels = draft_logits(logits, rows.head).float(), rows.head.places(labels)
            if self._soft:
                places = likely.ids if self._layout.own_lm_heads else rows.head.places(likely.ids)
                missed, _ = soft_cross_entropy(logits, likely, places)
            else:
                count = max(1, labels.numel())  # a mean over no answer token would be NaN
                missed = F.cross_entropy(logits, labels, reduction="sum", ignore_index=OUTSIDE) / count
            total = total + self._decay**k * missed
            figures |= hits(logits, labels, k)
        return total, figures


def _taught(rows: TrainingRows, k: int) -> Tensor:
    """Positions t [M] that head k learns from: token t + k + 1 belongs to an answer of the same dialogue."""
    is_answer = rows.mask[k:-1]  # whether token t + k + 1 is an answer token, for t = 0, 1, ...
    return (is_answer & (rows.positions[k:-1] >= k)).nonzero()[:, 0]


class ResBlock(nn.Module):
    """``x + SiLU(W x + b)``, W starts at zero (section 2.2.1); tensors are named as in the authors' code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.silu(self.linear(x))


class MedusaHeads(nn.ModuleList):
    """H heads: residual blocks, then an LM head of their own if the layout says so.

    Tensor names are those of the published checkpoints: ``{k}.0.linear.weight``, ``{k}.0.linear.bias``,
    ``{k}.1.weight``. Heads that share the target's LM head start as the identity; the authors' own ones leave
    the bias as PyTorch draws it.
    """

    def __init__(self, width: int, vocab: int, layout: HeadLayout) -> None:
        heads = []
        for _ in range(layout.heads):
            blocks: list[nn.Module] = [ResBlock(width) for _ in range(layout.blocks)]
            own = [nn.Linear(width, vocab, bias=False)] if layout.own_lm_heads else []
            heads.append(nn.Sequential(*blocks, *own))
        super().__init__(heads)
        if not layout.own_lm_heads:
            for name, parameter in self.named_parameters():
                if name.endswith("linear.bias"):
                    nn.init.zeros_(parameter)
