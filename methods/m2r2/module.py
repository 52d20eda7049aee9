"""M2R2's adapters and gate and how they are trained; `methods.m2r2.draft` decodes with them.

Shapes: n layers of the interval, T positions, M trained ones, R rows, r rank, I inputs, O outputs, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.delta import Projection
from bench.runtime.linear import rms_norm
from methods.core.base import check_exit
from methods.m2r2.accelerated import FUSED, Arla, changed_layers, chosen_interval, target_sizes
from methods.training.distillation import draft_logits, soft_cross_entropy
from methods.training.frozen_layers import attended, fed_forward, query_key_value
from methods.training.rows import TrainingRows


class M2R2Trainer:
    """Trains adapters and gate; see `methods.core.base.ModuleTrainer`.

    Args:
        name: Of the method, as stored next to the weights.
        start: Layer the accelerated row enters (s); None for 0.
        exit_layer: Layer it leaves (e); None for an eighth of the depth.
        rank: Of the adapters (r).
        targets: Projections that they change.
        layers: They change ``all`` layers of the interval, or the ``last``.
    """

    def __init__(
        self,
        name: str,
        start: int | None,
        exit_layer: int | None,
        rank: int,
        targets: list[str],
        layers: str,
    ) -> None:
        self._name, self._start, self._exit_layer = name, start, exit_layer
        self._rank, self._targets, self._layers = rank, targets, layers

    def _interval(self, decoder: Decoder) -> tuple[int, int]:
        return chosen_interval(self._start, self._exit_layer, (0, max(1, decoder.depth // 8)))

    def new_module(self, decoder: Decoder) -> nn.Module:
        interval = self._interval(decoder)
        check_exit(interval[1], decoder, self._name)
        if not 0 <= interval[0] < interval[1]:
            raise UserError(
                f"{self._name}: start must lie before exit_layer={interval[1]}, got {interval[0]}",
                "set method.start below method.exit_layer",
            )
        return AcceleratedStream(decoder, interval, self._layers, self._targets, self._rank)

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        start, stop = self._interval(decoder)
        return tuple(range(start, stop + 1))

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        start, stop = self._interval(decoder)
        facts = {"start": start, "exit_layer": stop, "rank": self._rank, "targets": self._targets}
        return {"method": self._name, **facts, "layers": self._layers}

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Soft cross-entropy against the target on answer positions plus the gate's binary cross-entropy.

        Logged with the figures of `methods.training.distillation.soft_cross_entropy`: ``exit_top1``, the
        agreement of the plain early exit at the same layer; ``gate``, the gate's loss.
        """
        interval = self._interval(decoder)
        assert isinstance(module, AcceleratedStream)
        stream = accelerated_rows(module.adapters, rows, interval, decoder)
        fast = torch.stack(stream)[:, rows.mask]  # [n, M, d]
        places = rows.head.places(rows.likely.ids)
        logits = draft_logits(_normed(fast[-1], decoder), rows.head)
        loss, figures = soft_cross_entropy(logits, rows.likely, places)
        is_right = (logits.argmax(dim=-1) == places[:, 0]).float()
        gate = F.binary_cross_entropy_with_logits(module.arla(fast.detach().float()), is_right)
        with torch.no_grad():
            plain = rows.head(rows.hidden[interval[1]][rows.mask]).argmax(dim=-1)
            figures["exit_top1"] = float((plain == places[:, 0]).float().mean())
        return loss + gate, figures | {"gate": float(gate.detach())}


class AcceleratedStream(nn.Module):
    """The trained module: low-rank changes of the interval's layers, and the gate that reads their rows.

    Args:
        decoder: The target; gives the sizes.
        interval: First layer, and one past the last (s, e).
        which: Low-rank changes of ``all`` layers of the interval, or of the ``last``.
        targets: Projections to change, of `methods.m2r2.accelerated.TARGETS`.
        rank: Rank of every change (r).
    """

    def __init__(
        self, decoder: Decoder, interval: tuple[int, int], which: str, targets: Sequence[str], rank: int
    ) -> None:
        super().__init__()
        self.adapters = LowRank(decoder, changed_layers(interval, which), targets, rank)
        self.arla = Arla(interval[1] - interval[0], decoder.config.width)


class LowRankPair(nn.Module):
    """``B A``: ``a`` [r, I] starts at random, ``b`` [O, r] at zero."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The change of rows [R, I], shape [R, O]."""
        return x @ self.a.T @ self.b.T


class LowRank(nn.ModuleDict):
    """Trainable low-rank changes of some layers; a `bench.runtime.delta.Delta` on every row of a pass.

    B starts at zero, so an untrained change is none.

    Tensors are named ``{layer}.{target}.a`` and ``.b``.

    Args:
        decoder: The target; gives the sizes.
        layers: Layers to change.
        targets: Which of `TARGETS`.
        rank: Rank of every change (r).
    """

    def __init__(self, decoder: Decoder, layers: Sequence[int], targets: Sequence[str], rank: int) -> None:
        sizes = target_sizes(decoder)
        super().__init__(
            {
                str(layer): nn.ModuleDict({name: LowRankPair(*sizes[name], rank) for name in targets})
                for layer in layers
            }
        )

    def add(self, layer: int, projection: Projection, inputs: Tensor, outputs: Tensor) -> None:
        """See `bench.runtime.delta.Delta`; differentiable, and in fp32 as the module is."""
        if str(layer) not in self:
            return
        pairs, start = dict(self[str(layer)].named_children()), 0
        for name in FUSED[projection]:
            if name in pairs:
                change = pairs[name](inputs.float())
                outputs[:, start : start + change.shape[1]] += change.to(outputs.dtype)
            start += outputs.shape[1] // len(FUSED[projection])  # gate and up are equally wide


def _normed(rows: Tensor, decoder: Decoder) -> Tensor:
    return rms_norm(rows, decoder.final_norm, decoder.config.norm_eps)


def accelerated_rows(
    adapters: LowRank, rows: TrainingRows, interval: tuple[int, int], decoder: Decoder
) -> list[Tensor]:
    """The accelerated rows that decoding would compute at every position, all at once and with gradients.

    Args:
        adapters: Low-rank changes in training.
        rows: The slow rows entering every layer of the interval.
        interval: First layer, and one past the last (s, e).
        decoder: The frozen target.

    Returns:
        Accelerated rows after each layer of the interval, each of shape [T, d].
    """
    positions = rows.positions
    fast, after = rows.hidden[interval[0]], []
    for layer in range(*interval):
        place = decoder.placement.of(decoder.layers[layer].attention.is_alternate)
        cos, sin = (table[positions] for table in place.rotation(0, max(rows.lengths)))
        sees = rows.sees(place.window)
        with torch.no_grad():
            _, keys, values = query_key_value(layer, rows.hidden[layer], cos, sin, decoder)
        queries, _, _ = query_key_value(layer, fast, cos, sin, decoder, adapters)
        fast = attended(layer, fast, queries, keys, values, sees, decoder, adapters)
        fast = fed_forward(layer, fast, decoder, adapters)
        after.append(fast)
    return after
