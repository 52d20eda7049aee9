"""How a model's first layers are tuned for early exits, by low-rank changes (LayerSkip, arXiv 2404.16710).

An exit is the model's own final norm and LM head on the rows that leave a layer; no weights are added. Every
batch trains one early exit, as in TRL's variant of the recipe (the paper rotates them, too, with weights that
grow with depth), and the last layer on a part of its dialogues.

Differs from the paper in:
- only the first layers change, and by low-rank matrices; the rest of the model is frozen;
- what is learnt is the untuned model's distribution, not the text's tokens: the last layer is to go on saying
  what it said, and an exit is to say what the model will say;
- an exit learns the tokens that may be drafted alone;
- no layer dropout: it is for training from scratch or over billions of tokens.

The result is another model: its answers differ from the untuned one's, so it has a baseline of its own.

Shapes: T positions of all dialogues of a batch, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from methods.training.distillation import distil, soft_cross_entropy
from methods.training.low_rank import freeze
from methods.training.rows import TrainingRows
from methods.training.trained_model import TrainedModel, require_plain

KIND = "early_exits"


@dataclass(frozen=True, slots=True)
class ExitSettings:
    """What is tuned.

    Args:
        layers: So many of the first layers change (E).
        exits: Layers after which the model may be left, as numbers of layers run; none is above `layers`.
        rank: Of the changes (r).
        exit_weight: Share of the exit in the loss; the rest is the last layer's.
        last_share: Share of a batch's tokens, in whole dialogues and at least one, that run through the
            layers after the changed ones: these take most of the time and learn nothing themselves.
    """

    layers: int = 8
    exits: tuple[int, ...] = (4, 6, 8)
    rank: int = 16
    exit_weight: float = 0.5
    last_share: float = 0.25

    def __post_init__(self) -> None:
        object.__setattr__(self, "exits", tuple(self.exits))  # a list when composed by Hydra
        if self.rank < 1:
            raise UserError(f"exits.rank must be at least 1, got {self.rank}", "the default is 16")
        if not self.exits or not all(1 <= exit_ <= self.layers for exit_ in self.exits):
            raise UserError(
                f"exits.exits must lie in 1..{self.layers}, the layers that change, got {list(self.exits)}",
                "raise exits.layers, or name shallower exits",
            )
        for name in ("exit_weight", "last_share"):
            if not 0 < getattr(self, name) <= 1:
                value = getattr(self, name)
                raise UserError(
                    f"exits.{name} must be above 0 and at most 1, got {value}", "see conf/exits.yaml"
                )


class ExitTrainer:
    """Tunes the model; see `methods.core.base.ModuleTrainer`.

    Args:
        settings: What is tuned.
    """

    def __init__(self, settings: ExitSettings) -> None:
        self._settings = settings

    def new_module(self, decoder: Decoder) -> nn.Module:
        """A copy of the model whose first layers learn low-rank changes.

        Raises:
            UserError: If the model's layers are not plain ones, or are too few.
        """
        require_plain(decoder.config, "bench.train.exits")
        if self._settings.layers >= decoder.depth:
            raise UserError(
                f"exits.layers must be below the model's {decoder.depth} layers, got {self._settings.layers}",
                "the last layers verify: leave them as they are",
            )
        model = TrainedModel(decoder.config)
        model.copy_weights(decoder)
        model.requires_grad_(False)
        freeze(model.model.layers[: self._settings.layers], self._settings.rank)
        return model

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        """None: the changed model runs from the tokens on."""
        return ()

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        settings = self._settings
        facts = {"layers": settings.layers, "exits": list(settings.exits), "rank": settings.rank}
        return {"method": KIND, **facts, "exit_weight": settings.exit_weight}

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Soft cross-entropy of one exit and of the last layer against the untuned model.

        Logged: ``exit`` and ``last``, the two losses; ``top1`` and ``accept`` of the exit and ``top1_last``,
        see `methods.training.distillation.soft_cross_entropy`. The batch's tokens choose the exit.
        """
        assert isinstance(module, TrainedModel)
        exits, norm = self._settings.exits, module.model.norm
        early, last = self._rows_after(module, rows, exits[int(rows.ids.sum()) % len(exits)], decoder)
        exit_loss, figures = distil(norm(early[rows.mask]), rows.likely, rows.head)
        is_trained = rows.mask[: last.shape[0]]
        likely = rows.likely[torch.arange(int(is_trained.sum()), device=last.device)]
        logits = F.linear(norm(last[is_trained]), module.head).float()
        last_loss, kept = soft_cross_entropy(logits, likely, likely.ids)
        figures |= {"exit": float(exit_loss.detach()), "last": float(last_loss.detach())}
        weight = self._settings.exit_weight
        return weight * exit_loss + (1 - weight) * last_loss, {**figures, "top1_last": kept["top1"]}

    def _rows_after(
        self, model: TrainedModel, rows: TrainingRows, exit_: int, decoder: Decoder
    ) -> tuple[Tensor, Tensor]:
        """Rows [T, d] after the exit, and those of the first dialogues after the last layer."""
        hidden = model.model.embed_tokens(rows.ids)[None]
        turns = [table.float() for table in decoder.placement.rotation(0, max(rows.lengths))]
        cos, sin = (table[rows.positions][None] for table in turns)
        future = torch.zeros(rows.sees(None).shape, device=hidden.device).masked_fill(~rows.sees(None), -1e9)
        early, changed = hidden, self._settings.layers
        for index, layer in enumerate(model.model.layers[:changed], start=1):
            hidden = layer(hidden, cos, sin, future)
            early = hidden if index == exit_ else early
        count = self._first(rows.lengths)
        hidden = hidden[:, :count]
        for layer in model.model.layers[changed:]:
            hidden = layer(hidden, cos[:, :count], sin[:, :count], future[:count, :count])
        return early[0], hidden[0]

    def _first(self, lengths: tuple[int, ...]) -> int:
        """Tokens of the first dialogues, as many as hold the share that runs through all layers."""
        count = 0
        for length in lengths:
            count += length
            if count >= self._settings.last_share * sum(lengths):
                break
        return count
