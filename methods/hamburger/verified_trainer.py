"""How the micro-step decoder of `methods.hamburger.verified` is trained on a frozen target.

Differs from the authors' training in:
- every answer token of a dialogue is the head of a training group, since a rejection may start one there;
- the loss is the cross-entropy against the target's distribution, whose agreement is what acceptance counts;
- the stop head learns up to the end of each group, and not where a full group ends anyway.

Shapes: T positions, A anchors (rows that predict an answer token), K most tokens of a group, F features, d
width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from bench.runtime.linear import rms_norm
from methods.hamburger.module import MicroModule
from methods.hamburger.shape import HamburgerShape
from methods.training.distillation import distil
from methods.training.rows import TrainingRows


class VerifiedTrainer:
    """Trains the micro-step decoder; see `methods.core.base.ModuleTrainer`.

    Args:
        name: Of the method, as stored next to the weights.
        max_group: Most tokens of a group, its first token included (K).
        micro_layers: Layers of the micro-step decoder.
        micro_mlp_width: Inner width of their MLPs; None is the model's own.
        floor: Nats below which a token joins any group.
        ratio: Share of a group's highest entropy below which a token joins it.
        stop_weight: Of the stop head's loss.
    """

    def __init__(
        self,
        name: str,
        max_group: int,
        micro_layers: int,
        micro_mlp_width: int | None,
        floor: float,
        ratio: float,
        stop_weight: float,
    ) -> None:
        self._name, self._max_group = name, max_group
        self._micro_layers, self._micro_mlp_width = micro_layers, micro_mlp_width
        self._floor, self._ratio, self._stop_weight = floor, ratio, stop_weight

    def new_module(self, decoder: Decoder) -> nn.Module:
        return MicroModule(decoder.config, self._trained_shape(decoder))

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        return self._trained_shape(decoder).taps

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        return {"method": self._name, "shape": self._trained_shape(decoder).plain()}

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Soft cross-entropy of every drafted token plus the weighted stop loss, averaged over tokens.

        Logged with the figures of `methods.training.distillation.soft_cross_entropy`: ``stop``, the stop
        loss, and ``stop_right``, how often the stop head decides as labelled at 0.5.
        """
        windows = _Windows(rows, self._max_group)
        features = _features(rows, decoder, windows.anchors)
        tokens = decoder.embed(windows.inputs).float()
        drafted = module(features, tokens, decoder.placement.rotation(0, decoder.capacity))  # [A, K - 1, d]
        likely = rows.likely[windows.sources[windows.is_drafted]]
        token_loss, figures = distil(drafted[windows.is_drafted], likely, rows.head)
        states = torch.cat([features[:, -1:], drafted[:, :-1]], dim=1)  # of tokens 0 .. K - 2
        stop_loss, right = self._stop_loss(module, states, windows)
        figures |= {"stop": float(stop_loss.detach()), "stop_right": right}
        return token_loss + self._stop_weight * stop_loss, figures

    def _stop_loss(self, module: nn.Module, states: Tensor, windows: _Windows) -> tuple[Tensor, float]:
        is_open, is_last = windows.borders(self._floor, self._ratio)
        guess = module.get_submodule("stop_head")(states[is_open]).squeeze(-1)
        label = is_last[is_open]
        loss = F.binary_cross_entropy_with_logits(guess, label.float())
        return loss, float(((guess > 0) == label).float().mean())

    def _trained_shape(self, decoder: Decoder) -> HamburgerShape:
        return HamburgerShape.for_model(
            decoder.config, self._max_group, self._micro_layers, self._micro_mlp_width
        )


class _Windows:
    """The K tokens that follow every row that predicts an answer token, and where their groups end.

    Args:
        rows: Dialogues through the target.
        max_group: Tokens of a window (K).
    """

    def __init__(self, rows: TrainingRows, max_group: int) -> None:
        mask = rows.mask
        self.anchors = mask.nonzero().squeeze(1)  # [A]
        row_of = (mask.cumsum(0) - 1).clamp(min=0)  # position -> its row among the anchors
        self._entropies = rows.likely.entropy  # [A]
        positions = self.anchors[:, None] + torch.arange(1, max_group, device=mask.device)  # [A, K - 1]
        clipped = positions.clamp(max=mask.numel() - 1)
        self.inputs = rows.ids[clipped]
        self.is_drafted = ((positions == clipped) & mask[clipped]).cumprod(dim=1).bool()  # within one answer
        self.sources = row_of[clipped]  # the target's row that predicts each drafted token

    def borders(self, floor: float, ratio: float) -> tuple[Tensor, Tensor]:
        """Whether tokens 0 .. K - 2 of each window are in the group that begins there, and which is its last.

        Groups are cut as by `methods.hamburger.groups.segment`. Both have shape [A, K - 1], bool.
        """
        highest = self._entropies
        is_open = [torch.ones_like(highest, dtype=torch.bool)]
        for index in range(self.inputs.shape[1]):
            value = self._entropies[self.sources[:, index]]
            joins = (value < floor) | (value < ratio * highest)
            is_open.append(is_open[-1] & joins & self.is_drafted[:, index])
            highest = torch.maximum(highest, value)
        inside = torch.stack(is_open, dim=1)  # [A, K]
        return inside[:, :-1], inside[:, :-1] & ~inside[:, 1:]


def _features(rows: TrainingRows, decoder: Decoder, anchors: Tensor) -> Tensor:
    """Features of every anchor, shape [A, F, d], fp32; taps ascend, the last one is normed."""
    features = [rows.hidden[tap][anchors] for tap in sorted(rows.hidden)]
    features[-1] = rms_norm(features[-1], decoder.final_norm, decoder.config.norm_eps)
    return torch.stack(features, dim=1).float()
