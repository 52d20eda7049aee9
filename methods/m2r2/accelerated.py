"""The frozen parts that M2R2 decodes with: low-rank changes of layers, and the gate ARLA.

`methods.m2r2.module` trains them.

Shapes: n layers of the interval, R rows, M tokens, r rank, I inputs, O outputs, a latent width, d width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from bench.runtime.delta import Projection
from bench.runtime.layers import dense

TARGETS = ("q", "o", "gate", "up", "down")
FUSED: dict[Projection, tuple[str, ...]] = {
    "qkv": ("q",),
    "o": ("o",),
    "gate_up": ("gate", "up"),
    "down": ("down",),
}
"""Targets inside each fused projection, in the order of its outputs."""
LATENT = 64
DOUBT = -4.0
"""First bias of the gate's output: an untrained gate hardly ever opens."""


class FrozenLowRank:
    """Trained low-rank changes, frozen and fused: two products per projection, on the rows from `first` on.

    Row x of a projection W becomes ``W x + B A x``. Keys and values are never changed, since accelerated rows
    read those of the target.

    Args:
        tensors: ``{layer}.{target}.a``, A of shape [r, I], and ``{layer}.{target}.b``, B of shape [O, r].
        first: Rows before this one stay as they are.
    """

    def __init__(self, tensors: Mapping[str, Tensor], first: int) -> None:
        self.first = first
        self._changes: dict[tuple[int, Projection], tuple[Tensor, Tensor]] = {}
        for layer in sorted({int(name.split(".")[0]) for name in tensors}):
            for projection, names in FUSED.items():
                changed = [name for name in names if f"{layer}.{name}.a" in tensors]
                if changed:
                    pairs = [(tensors[f"{layer}.{name}.a"], tensors[f"{layer}.{name}.b"]) for name in changed]
                    self._changes[layer, projection] = _fused(pairs, changed, names)

    def factors(self, layer: int, projection: Projection) -> tuple[Tensor, Tensor] | None:
        """See `bench.runtime.delta.LowRankDelta`."""
        return self._changes.get((layer, projection))

    def add(self, layer: int, projection: Projection, inputs: Tensor, outputs: Tensor) -> None:
        """See `bench.runtime.delta.Delta`."""
        change = self.factors(layer, projection)
        if change is not None:
            inner, outer = change
            changed = outputs[self.first :, : outer.shape[1]]
            changed.addmm_(inputs[self.first :] @ inner, outer)


def _fused(
    pairs: Sequence[tuple[Tensor, Tensor]], changed: Sequence[str], names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Factors [I, m r] and [m r, O] of the m changes inside one projection; O spans all of `names`."""
    inner = torch.cat([a for a, _ in pairs]).T.contiguous()
    blocks = dict(zip(changed, (b for _, b in pairs), strict=True))
    width, rank = pairs[0][1].shape
    outer = pairs[0][1].new_zeros(len(changed) * rank, len(names) * width)
    for row, name in enumerate(changed):
        column = names.index(name)
        outer[row * rank : (row + 1) * rank, column * width : (column + 1) * width] = blocks[name].T
    return inner, outer


class Arla(nn.Module):
    """ARLA, accelerated residual latent attention: how likely the exit's token is the target's.

    A small gate that needs no LM head at the exit: one head of attention from the last layer's latent row to
    those of all layers of the interval (arXiv 2502.02040; dimensions and loss are ours).
    """

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, LATENT, bias=False)
        self.places = nn.Parameter(torch.zeros(layers, LATENT))
        self.query = nn.Linear(LATENT, LATENT, bias=False)
        self.key = nn.Linear(LATENT, LATENT, bias=False)
        self.value = nn.Linear(LATENT, LATENT, bias=False)
        self.out = nn.Linear(LATENT, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, DOUBT)

    def forward(self, rows: Tensor) -> Tensor:
        """Logit that the exit's token is right, shape [M], from accelerated rows [n, M, d]."""
        latent = self.down(F.rms_norm(rows, rows.shape[-1:])) + self.places[:, None]  # [n, M, a]
        last = latent[-1]
        scores = (self.key(latent) * self.query(last)).sum(dim=-1) / LATENT**0.5  # [n, M]
        mixed = (scores.softmax(dim=0)[..., None] * self.value(latent)).sum(dim=0)
        logit: Tensor = self.out(F.silu(mixed + last))[:, 0]
        return logit


def target_sizes(decoder: Decoder) -> dict[str, tuple[int, int]]:
    """Number of inputs and outputs of every target in this model.

    Raises:
        ValueError: If its layers have no MLP.
    """
    config, mlp = decoder.config, dense(decoder.layers[0].mlp)
    if mlp is None:
        raise ValueError("low-rank changes need layers with an MLP")
    heads, inner = config.heads * config.head_dim, mlp.down.weight.shape[1]
    width = config.width
    return {
        "q": (width, heads),
        "o": (heads, width),
        "gate": (width, inner),
        "up": (width, inner),
        "down": (inner, width),
    }


def chosen_interval(start: int | None, exit_layer: int | None, default: tuple[int, int]) -> tuple[int, int]:
    """Layers (s, e) of the accelerated stream as configured; None takes that of `default`."""
    return default[0] if start is None else start, default[1] if exit_layer is None else exit_layer


def changed_layers(interval: tuple[int, int], which: str) -> range:
    """Layers with low-rank changes: ``all`` of the interval (s, e), or the ``last``."""
    start, stop = interval
    return range(start, stop) if which == "all" else range(stop - 1, stop)


def module_shapes(
    decoder: Decoder, interval: tuple[int, int], which: str, targets: Sequence[str], rank: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of all trained tensors by name; see `methods.m2r2.module.AcceleratedStream` for the settings."""
    shapes: dict[str, tuple[int, ...]] = {}
    sizes = target_sizes(decoder)
    for layer in changed_layers(interval, which):
        for name in targets:
            inputs, outputs = sizes[name]
            shapes[f"adapters.{layer}.{name}.a"] = (rank, inputs)
            shapes[f"adapters.{layer}.{name}.b"] = (outputs, rank)
    with torch.device("meta"):
        gate = Arla(interval[1] - interval[0], decoder.config.width)
    return shapes | {f"arla.{name}": tuple(tensor.shape) for name, tensor in gate.state_dict().items()}
