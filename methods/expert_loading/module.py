"""How the changes of M2R2's expert loading are trained: a later router must not notice the difference.

The loss compares what a later router says of the rows that it will see with what it says of the present rows
after the change, as a Kullback-Leibler divergence over its experts. All positions are trained.

Shapes: T positions, d width, r rank, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.experts.placement import mixtures_of
from bench.runtime.experts.prediction import predicted_layers
from bench.runtime.linear import rms_norm
from methods.training.frozen_layers import attended, query_key_value
from methods.training.rows import TrainingRows


class ResidualChange(nn.Module):
    """``x + x inner outer + shift``, at first the identity."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(width, rank) / width**0.5)
        self.outer = nn.Parameter(torch.zeros(rank, width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, rows: Tensor) -> Tensor:
        """Changed rows [T, d]."""
        return rows + rows @ self.inner @ self.outer + self.shift


class ResidualChanges(nn.Module):
    """A change for every present and predicted layer."""

    def __init__(self, pairs: list[tuple[int, int]], width: int, rank: int) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({f"{first}-{later}": ResidualChange(width, rank) for first, later in pairs})


class ExpertTrainer:
    """Trains the changes; see `methods.core.base.ModuleTrainer`.

    Args:
        name: Of the method, as stored next to the weights.
        ahead: See `bench.runtime.experts.prediction.LaterRouter`.
        rank: Of a change (r).
    """

    def __init__(self, name: str, ahead: int, rank: int) -> None:
        self._name, self._ahead, self._rank = name, ahead, rank

    def _pairs(self, decoder: Decoder) -> list[tuple[int, int]]:
        named = predicted_layers(sorted(mixtures_of(decoder)), self._ahead)
        return [(first, later) for first, several in named.items() for later in several]

    def new_module(self, decoder: Decoder) -> nn.Module:
        pairs = self._pairs(decoder)
        if not pairs:
            raise UserError(
                f"{self._name}: this model has a single layer with experts, so none comes later",
                "use a model with several such layers",
            )
        return ResidualChanges(pairs, decoder.config.width, self._rank)

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        return tuple(sorted({layer for pair in self._pairs(decoder) for layer in pair}))

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        return {"method": self._name, "ahead": self._ahead, "rank": self._rank}

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean divergence of the predicted routings from the true ones.

        Logged: ``recall``, the share of the true experts that are among as many predicted ones;
        ``recall_unchanged``, the same without the change.
        """
        assert isinstance(module, ResidualChanges)
        mixtures, eps = mixtures_of(decoder), decoder.config.norm_eps
        entering = {layer: entering_experts(layer, rows, decoder) for layer in self.taps(decoder)}
        losses, recalls, unchanged = [], [], []
        for first, later in self._pairs(decoder):
            moe = mixtures[later]
            change = module.maps[f"{first}-{later}"]

            def routing(hidden: Tensor, later: int = later) -> Tensor:
                """The later router's logits [T, E] for rows [T, d]."""
                router = mixtures[later].router
                return F.linear(rms_norm(hidden, mixtures[later].norm, eps), router.weight, router.bias)

            true = routing(entering[later]).float()
            guess = routing(change(entering[first])).float()
            losses.append(F.kl_div(guess.log_softmax(-1), true.softmax(-1), reduction="batchmean"))
            with torch.no_grad():
                recalls.append(recall(true, guess, moe.config.top_k))
                unchanged.append(recall(true, routing(entering[first]).float(), moe.config.top_k))
        figures = {"recall": _mean(recalls), "recall_unchanged": _mean(unchanged)}
        return torch.stack(losses).mean(), figures


def recall(true: Tensor, guess: Tensor, count: int) -> float:
    """Share of the `count` likeliest experts that are among the `count` guessed ones, of logits [T, E]."""
    wanted, named = (logits.topk(count, dim=-1).indices for logits in (true, guess))
    return float((wanted[:, :, None] == named[:, None, :]).any(dim=-1).float().mean())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def entering_experts(layer: int, rows: TrainingRows, decoder: Decoder) -> Tensor:
    """Rows [T, d] entering a layer's mixture of experts: those entering the layer, after its attention."""
    hidden = rows.hidden[layer]
    cos, sin = (table[rows.positions] for table in decoder.placement.rotation(0, max(rows.lengths)))
    queries, keys, values = query_key_value(layer, hidden, cos, sin, decoder)
    return attended(layer, hidden, queries, keys, values, rows.sees(decoder.config.window), decoder)
