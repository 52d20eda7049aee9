"""How a model's first layers are tuned for early exits, by low-rank changes (LayerSkip, arXiv 2404.16710).

Each batch trains one early exit and the last layer together, half and half, as TRL's variant of the recipe
does (the paper rotates exits, too, with weights that grow with depth). An exit is the model's own final norm
and LM head on the rows that leave a layer; no weights are added.

Differs from the paper in:
- only the first layers change, and by low-rank matrices; the rest of the model is frozen;
- what is learnt is the untuned model's distribution, not the text's tokens: the last layer is to go on saying
  what it said, and an exit is to say what the model will say;
- no layer dropout: it is for training from scratch or over billions of tokens.

The result is another model: its answers differ from the untuned one's, so it has a baseline of its own.

Shapes: B dialogues, S positions, M rows that predict an answer token, d width, V vocabulary, N tokens that
may be drafted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftHead
from methods.core.base import Example
from methods.training.low_rank import freeze
from methods.training.trained_layer import future_mask
from methods.training.trained_model import TrainedModel, require_plain

BLOCK = "early_exits"


@dataclass(frozen=True, slots=True)
class ExitSettings:
    """What is tuned.

    Args:
        layers: So many of the first layers change (E).
        exits: Layers after which the model may be left, as numbers of layers run; none is above `layers`.
        rank: Of the changes (r).
        exit_weight: Share of an exit's loss; the rest is that of the last layer.
    """

    layers: int = 8
    exits: tuple[int, ...] = (4, 6, 8)
    rank: int = 16
    exit_weight: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "exits", tuple(self.exits))  # a list when composed by Hydra
        if self.rank < 1:
            raise UserError(f"exits.rank must be at least 1, got {self.rank}", "the default is 16")
        if not self.exits or not all(1 <= exit_ <= self.layers for exit_ in self.exits):
            raise UserError(
                f"exits.exits must lie in 1..{self.layers}, the layers that change, got {list(self.exits)}",
                "raise exits.layers, or name shallower exits",
            )
        if not 0 < self.exit_weight < 1:
            raise UserError(
                f"exits.exit_weight must lie between 0 and 1, got {self.exit_weight}", "the default is 0.5"
            )


@dataclass(frozen=True, slots=True)
class Reading:
    """A dialogue and what the untuned model says of it.

    Args:
        ids: Token ids, length T.
        rows: Positions that predict an answer token, shape [M].
        teacher: Rows of the untuned model there, before the final norm, shape [M, d].
        exit: Layers run before the exit that learns from it.
    """

    ids: Sequence[int]
    rows: Tensor
    teacher: Tensor
    exit: int

    @property
    def tokens(self) -> int:
        """Tokens that it teaches."""
        return self.rows.numel()

    def __len__(self) -> int:
        """Tokens that it holds."""
        return len(self.ids)


class ExitTrainer:
    """Tunes the model; see `methods.core.base.ModelTrainer`.

    Args:
        settings: What is tuned.
        head: The head that drafts at the exits.
    """

    def __init__(self, settings: ExitSettings, head: DraftHead) -> None:
        self._settings, self._head = settings, head

    def new_model(self, decoder: Decoder) -> nn.Module:
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
        return model.to(decoder.device)

    def new_parts(self) -> tuple[str, ...]:
        """All that is trained."""
        return ("model.layers.",)

    @torch.no_grad()
    def examples(
        self, model: nn.Module, ids: Sequence[int], is_answer: Sequence[bool], decoder: Decoder, rng: Random
    ) -> list[Example]:
        """A dialogue as it is; none if it has no answer after its first token."""
        rows = torch.tensor(is_answer[1:], device=decoder.device).nonzero()[:, 0]
        exit_ = rng.choice(self._settings.exits)
        if not rows.numel():
            return []
        tokens = torch.tensor(ids, device=decoder.device)
        decoder.cache.truncate(0)
        hidden = decoder.run_layers(decoder.embed(tokens), decoder.placement.chain(0, len(ids)))
        return [Reading(ids, rows, hidden[rows], exit_)]

    def joint_loss(
        self, model: nn.Module, examples: Sequence[Example], decoder: Decoder
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Soft cross-entropy of the exit and of the last layer against the untuned model.

        The batch trains the exit of its longest dialogue. Also logged: ``exit`` and ``last``, the two losses;
        ``top1_EXIT`` and ``top1_last``, how often each has the untuned model's first choice for its own.
        """
        assert isinstance(model, TrainedModel)
        readings = [example for example in examples if isinstance(example, Reading)]
        exit_ = readings[0].exit
        early, last = _rows_after(model, readings, exit_, decoder)
        with torch.no_grad():
            says = decoder.head(torch.cat([reading.teacher for reading in readings])).float().softmax(dim=-1)
        drafted = self._head.lm_head(model.model.norm(early).to(self._head.dtype)).float()
        exit_loss = -(self._restricted(says) * drafted.log_softmax(dim=-1)).sum(dim=-1).mean()
        logits = F.linear(model.model.norm(last), model.head).float()
        last_loss = -(says * logits.log_softmax(dim=-1)).sum(dim=-1).mean()
        best = says.argmax(dim=-1)
        weight = self._settings.exit_weight
        figures = {
            "exit": exit_loss.detach(),
            "last": last_loss.detach(),
            f"top1_{exit_}": (self._head.tokens(drafted.argmax(dim=-1)) == best).float().mean(),
            "top1_last": (logits.argmax(dim=-1) == best).float().mean(),
        }
        return weight * exit_loss + (1 - weight) * last_loss, figures

    def blocks(self, decoder: Decoder) -> dict[str, dict[str, Any]]:
        settings = self._settings
        facts = {"layers": settings.layers, "exits": list(settings.exits), "rank": settings.rank}
        return {BLOCK: {**facts, "exit_weight": settings.exit_weight, "draft_vocab": self._head.size}}

    def _restricted(self, says: Tensor) -> Tensor:
        """Probabilities [M, V] of the tokens that may be drafted, shape [M, N]; they sum to at most 1."""
        places = torch.arange(self._head.size, device=says.device)
        return says[:, self._head.tokens(places)]


def _rows_after(
    model: TrainedModel, readings: Sequence[Reading], exit_: int, decoder: Decoder
) -> tuple[Tensor, Tensor]:
    """Rows that predict answer tokens after the exit and after the last layer, each shape [M, d]."""
    longest = max(map(len, readings))
    padded = [[*reading.ids, *([0] * (longest - len(reading)))] for reading in readings]
    hidden = model.model.embed_tokens(torch.tensor(padded, device=decoder.device))
    cos, sin = (table[None].float() for table in decoder.placement.rotation(0, longest))
    future = future_mask(longest, decoder.device)
    wanted = torch.cat([reading.rows + place * longest for place, reading in enumerate(readings)])
    early = hidden
    for index, layer in enumerate(model.model.layers, start=1):
        hidden = layer(hidden, cos, sin, future)
        if index == exit_:
            early = hidden
    return early.flatten(0, 1)[wanted], hidden.flatten(0, 1)[wanted]
