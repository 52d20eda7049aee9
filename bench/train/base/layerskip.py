"""LayerSkip's training recipe: layer dropout, early-exit loss weights and the rotation of exits.

LayerSkip: Enabling Early Exit Inference and Self-Speculative Decoding (arXiv 2404.16710), sections 4.1 and
4.2. Differs from the paper in three points, all for a small model trained from nothing in about an hour:
- Each step trains one early exit. Three steps out of four it is one of those that drafting uses (after 2, 4
  and 1 layers), the fourth step takes the remaining layers in turn. The paper's rotation treats all alike.
- e(l) has a floor. The paper's e grows with l squared and gives the exit after one layer weight 0 and the
  one after two layers under 1 % of the last one's, too little for so few steps.
- A sample that skips a layer is computed and multiplied by 0 instead of being taken out of the batch: the
  gradient is the same, and shapes stay fixed.

Layer index l counts from 0 as in the paper; an exit is named by the number of layers it runs: exit n reads
layer n-1.
"""

import math

import torch
from torch import Tensor

FAVOURED_EXITS = (2, 4, 1)


def dropout_rates(layers: int, step: int, steps: int, p_max: float) -> Tensor:
    """Layer dropout rates p_{l,t} = S(t) D(l) p_max, shape [L] (section 4.1).

    D grows exponentially from 0 at the first layer to 1 at the last; S likewise over the steps, the paper's
    choice for training from scratch.
    """
    ramp = math.exp(step * math.log(2) / max(1, steps - 1)) - 1
    depth = torch.exp(torch.arange(layers) * math.log(2) / max(1, layers - 1)) - 1
    return p_max * ramp * depth


def draw_keep(rates: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """1 where a sample runs a layer, 0 where it skips it, shape [L, B, 1, 1]."""
    samples = torch.rand(rates.numel(), batch, generator=generator)
    return (samples >= rates[:, None]).float()[:, :, None, None]


def exit_of_step(step: int, layers: int) -> int:
    """The early exit trained at this step, as a number of layers in 1..L-1."""
    favoured = [exit_ for exit_ in FAVOURED_EXITS if exit_ < layers]
    others = [exit_ for exit_ in range(1, layers) if exit_ not in favoured]
    turn, place = divmod(step, len(favoured) + bool(others))
    return favoured[place] if place < len(favoured) else others[turn % len(others)]


def exit_weight(exit_: int, layers: int, e_scale: float, floor: float) -> float:
    """Weight of an early exit's loss: e(l) / e(L-1), at least `floor` (section 4.2)."""
    index, last = exit_ - 1, layers - 1
    early = e_scale * index * (index + 1) / 2
    final = last + e_scale * last * (last - 1) / 2
    return max(floor, early / final)
