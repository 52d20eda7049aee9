"""How the output of attention or MLP joins the residual stream: as it is, after a norm, or times a factor.

Shapes: R rows, I inputs, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.runtime.delta import Delta, Projection
from bench.runtime.linear import Linear, rms_norm


@dataclass(frozen=True, slots=True)
class Residual:
    """What happens to a sub-layer's output before it is added.

    Args:
        norm: Weight of a norm, shape [d]; None without one.
        scale: Factor.
    """

    norm: Tensor | None = None
    scale: float = 1.0


PLAIN = Residual()


def add_output(
    hidden: Tensor,
    inputs: Tensor,
    linear: Linear,
    by: Residual,
    eps: float,
    delta: Delta | None,
    place: tuple[int, Projection],
) -> Tensor:
    """The residual stream after a sub-layer, shape [R, d]; one kernel where there is neither norm nor delta.

    Args:
        hidden: The stream before it, shape [R, d].
        inputs: Inputs of the sub-layer's last projection, shape [R, I].
        linear: That projection.
        by: Norm and factor of its output.
        eps: Of the norm.
        delta: Changes the projection's output, before norm and factor.
        place: Layer and name of the projection, for the delta.
    """
    is_plain = by.norm is None and (delta is None or by.scale == 1.0)
    out = linear.add_to(hidden, inputs, by.scale) if is_plain else linear(inputs)
    if delta is not None:
        delta.add(*place, inputs, out)
    if is_plain:
        return out
    return torch.add(hidden, out if by.norm is None else rms_norm(out, by.norm, eps), alpha=by.scale)
