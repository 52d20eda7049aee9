"""Changes to the projections of chosen rows of a pass, such as low-rank adapters on accelerated rows.

Shapes: R rows, I inputs, O outputs, r rank.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

Projection = Literal["qkv", "o", "gate_up", "down"]


class Delta(Protocol):
    """What some rows add to projections."""

    def add(self, layer: int, projection: Projection, inputs: Tensor, outputs: Tensor) -> None:
        """Add to `outputs` [R, O] in place what `inputs` [R, I] call for at this layer and projection.

        Outputs of ``o`` and ``down`` hold the residual stream already: add to them, never scale or overwrite
        them.
        """


@runtime_checkable
class LowRankDelta(Delta, Protocol):
    """A delta that is a product of two small matrices, so that a pass in one call can add it.

    Attributes:
        first: Rows before this one stay as they are.
    """

    first: int

    def factors(self, layer: int, projection: Projection) -> tuple[Tensor, Tensor] | None:
        """Matrices [I, r] and [r, O']: the first O' outputs get ``x @ inner @ outer`` more; None for none."""
