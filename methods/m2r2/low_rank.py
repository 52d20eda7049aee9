"""Low-rank changes to the projections of chosen rows: what accelerates M2R2's second stream.

Row x of a projection W becomes ``W x + B A x``; B starts at zero, so an untrained change is none. Keys and
values are never changed: accelerated rows read those of the target (specs: hidden-transfer-m2r2, section
3.2).

Shapes: R rows, r rank, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from bench.runtime.delta import Projection

TARGETS = ("q", "o", "gate", "up", "down")
FUSED: dict[Projection, tuple[str, ...]] = {
    "qkv": ("q",),
    "o": ("o",),
    "gate_up": ("gate", "up"),
    "down": ("down",),
}
"""Targets inside each fused projection, in the order of its outputs."""


class LowRankPair(nn.Module):
    """``B A``: ``a`` [r, I] drawn, ``b`` [O, r] zero."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The change of rows [R, I], shape [R, O]."""
        return x @ self.a.T @ self.b.T


class LowRank(nn.ModuleDict):
    """Trainable changes of some layers; a `bench.runtime.delta.Delta` on every row of a pass.

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


class FrozenLowRank:
    """The same, frozen and fused: two products per projection, on the rows from `first` on.

    Args:
        tensors: State dict of `LowRank`.
        first: Rows before this one stay as they are.
    """

    def __init__(self, tensors: Mapping[str, Tensor], first: int) -> None:
        self.first = first
        self._changes: dict[tuple[int, Projection], tuple[Tensor, Tensor]] = {}
        for layer in sorted({int(name.split(".")[0]) for name in tensors}):
            for projection, names in FUSED.items():
                found = [name for name in names if f"{layer}.{name}.a" in tensors]
                if found:
                    pairs = [(tensors[f"{layer}.{name}.a"], tensors[f"{layer}.{name}.b"]) for name in found]
                    self._changes[layer, projection] = _fused(pairs, found, names)

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
    pairs: Sequence[tuple[Tensor, Tensor]], found: Sequence[str], names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Factors [I, n r] and [n r, O] of all changes inside one projection; O spans all of `names`."""
    inner = torch.cat([a for a, _ in pairs]).T.contiguous()
    blocks = dict(zip(found, (b for _, b in pairs), strict=True))
    width, rank = pairs[0][1].shape
    outer = pairs[0][1].new_zeros(len(found) * rank, len(names) * width)
    for row, name in enumerate(found):
        column = names.index(name)
        outer[row * rank : (row + 1) * rank, column * width : (column + 1) * width] = blocks[name].T
    return inner, outer


def target_sizes(decoder: Decoder) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of every target in this model.

    Raises:
        ValueError: If its layers have no MLP.
    """
    config, mlp = decoder.config, decoder.layers[0].mlp
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
