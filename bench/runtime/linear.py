"""Frozen projections, multiplied by what is fastest for their device and precision.

A decode step multiplies one row, a verification a few, a prefill hundreds. In fp32 on a CPU all of them take
the compiled product (`bench.runtime.tiers.native`), which gives a row the same bits however many others it
has beside it. Without a compiler, and in other precisions, torch multiplies: few rows by a transposed copy,
from `PACKED_ROWS` rows on and `PACKED_SIZE` weights up by oneDNN's prepacked one (specs/performance.md 4.3).
On CUDA cuBLAS takes the stored layout as it is.

Shapes: R rows, I inputs, O outputs.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.tiers.native.products import Product, compiled_product

PACKED_SIZE = 500_000
PACKED_ROWS = 4
_PACKING_ROWS = 4  # what oneDNN lays the weights out for; of 1 to 16, best or as good at any number of rows
HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class Linear:
    """A frozen projection, ``x @ weight.T + bias``.

    Gradients flow to `x` alone, and through torch's product.

    Args:
        weight: Shape [O, I], as checkpoints store it.
        bias: Shape [O], or None.

    Attributes:
        compiled: The compiled product, where there is one.
    """

    __slots__ = ("_multiplier", "_weight", "bias", "compiled")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.bias = bias
        self.compiled = compiled_product(weight, bias)
        self._weight = weight if self.compiled is None else None  # else the product holds the only copy
        self._multiplier: Product | _Torch = self.compiled or _Torch(weight, bias)

    @property
    def weight(self) -> Tensor:
        """Shape [O, I]; made of the compiled product's copy when it is first read, and then kept."""
        if self._weight is None:
            assert self.compiled is not None
            self._weight = self.compiled.unpacked()
        return self._weight

    def __call__(self, x: Tensor) -> Tensor:
        """Product of `x` [R, I], shape [R, O]."""
        if x.requires_grad and torch.is_grad_enabled():
            return F.linear(x, self.weight, self.bias)
        return self._multiplier(x)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual + self(x)`` as a new tensor, shape [R, O]; one kernel where there is one for it."""
        if x.requires_grad and torch.is_grad_enabled():
            return residual + self(x)
        return self._multiplier.add_to(residual, x)

    @property
    def parameters(self) -> int:
        """Weights and biases, counted once however often they are stored."""
        weights = self.weight.numel() if self.compiled is None else self.compiled.weights
        return weights + (0 if self.bias is None else self.bias.numel())


class _Torch:
    """Torch's products, on every device and in every precision."""

    __slots__ = ("_bias", "_packed", "_transposed")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._bias = bias
        on_cpu = weight.device.type == "cpu"
        self._packed: Tensor | None = None
        if on_cpu and HAS_ONEDNN and weight.dtype == torch.float32 and weight.numel() >= PACKED_SIZE:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKING_ROWS)
        self._transposed = weight.t().contiguous() if on_cpu else weight.t()  # [I, O]

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed is not None and x.shape[0] >= PACKED_ROWS:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
            return out
        return x @ self._transposed if self._bias is None else torch.addmm(self._bias, x, self._transposed)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        if self._bias is not None or (self._packed is not None and x.shape[0] >= PACKED_ROWS):
            return self(x).add_(residual)
        return torch.addmm(residual, x, self._transposed)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis, statistics in at least fp32.

    On CUDA `F.rms_norm` is one kernel. On a CPU it is composed of more and slower ones than these four: the
    length of a row, the square root of its square plus ``eps``, and a division.
    """
    width = x.shape[-1]
    if x.is_cuda or x.dtype != torch.float32:
        return F.rms_norm(x, (width,), weight, eps)
    length = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), _constant((width * eps) ** 0.5))
    return torch.addcdiv(_constant(0.0), torch.mul(x, weight), length, value=width**0.5)


@cache
def _constant(value: float) -> Tensor:
    """A number as an fp32 tensor: every operation with a Python number would make a new one."""
    with torch.inference_mode(False):
        return torch.tensor(value)
