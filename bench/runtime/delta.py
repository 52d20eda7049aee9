"""Changes to the projections of chosen rows of a pass, such as low-rank adapters on accelerated rows.

Shapes: R rows, I inputs, O outputs, r rank.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

Projection = Literal["qkv", "o", "gate_up", "down"]


class Delta(Protocol):
    """An addition to the outputs of projections."""

    def add(self, layer: int, projection: Projection, inputs: Tensor, outputs: Tensor) -> None:
        """Add to `outputs` [R, O] in place, depending on `inputs` [R, I].

        Called once per layer and projection. The outputs of ``o`` and ``down`` may already contain the
        residual stream: add to them, never scale or overwrite them.
        """


@runtime_checkable
class LowRankDelta(Delta, Protocol):
    """A delta that is a product of two small matrices, which a compiled pass can add itself.

    Attributes:
        first: Rows before this one stay unchanged.
    """

    first: int

    def factors(self, layer: int, projection: Projection) -> tuple[Tensor, Tensor] | None:
        """Matrices inner [I, r] and outer [r, O'], or None if nothing is added to this projection.

        ``x @ inner @ outer`` is added to the first O' outputs of a row x.
        """
