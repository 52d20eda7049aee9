"""Matrix products with the kernel that is fastest for the number of rows.

A decode step multiplies one row, a verification a few, a prefill hundreds. On CPUs the plain product is best
for few rows and small matrices; from `PACKED_ROWS` rows on and `PACKED_SIZE` weights up, oneDNN's prepacked
product is faster (specs/performance.md 4.3). The plain product takes a transposed copy, except for large
weights with more inputs than outputs on AMD: there MKL multiplies one row faster by weights as they are
stored. So a large matrix is in memory up to three times. The choice depends on shapes and the CPU's maker
alone, so that it is the same in every run, for the baseline as for the methods. On CUDA cuBLAS takes the
stored layout as it is.

Shapes: R rows, I inputs, O outputs.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

PACKED_SIZE = 500_000
_PACKING_ROWS = 4  # what oneDNN lays the weights out for; of 1 to 16, best or as good at any number of rows
HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


@cache
def is_amd() -> bool:
    """Whether AMD has made this CPU."""
    info = Path("/proc/cpuinfo")
    return info.is_file() and "AuthenticAMD" in info.read_text(errors="replace")


PACKED_ROWS = 2 if is_amd() else 4
"""From how many rows on oneDNN is faster: MKL's plain product of several rows is not tuned for AMD."""


class Linear:
    """A frozen projection, ``x @ weight.T + bias``.

    Args:
        weight: Shape [O, I], as checkpoints store it.
        bias: Shape [O], or None.
    """

    __slots__ = ("_packed", "_transposed", "bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias
        on_cpu = weight.device.type == "cpu"
        self._packed: Tensor | None = None
        if on_cpu and HAS_ONEDNN and weight.dtype == torch.float32 and weight.numel() >= PACKED_SIZE:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKING_ROWS)
        is_read_as_stored = self._packed is not None and is_amd() and weight.shape[1] > weight.shape[0]
        is_copied = on_cpu and not is_read_as_stored
        self._transposed = weight.t().contiguous() if is_copied else weight.t()  # [I, O]

    def __call__(self, x: Tensor) -> Tensor:
        """Product of `x` [R, I], shape [R, O]."""
        if self._packed is not None and x.shape[0] >= PACKED_ROWS:
            return self._multiply_packed(x)
        if self.bias is None:
            return x @ self._transposed
        return torch.addmm(self.bias, x, self._transposed)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual + self(x)`` as a new tensor, shape [R, O]; one kernel where there is no bias."""
        if self.bias is not None or (self._packed is not None and x.shape[0] >= PACKED_ROWS):
            return self(x).add_(residual)
        return torch.addmm(residual, x, self._transposed)

    @property
    def parameters(self) -> int:
        """Weights and biases, counted once however often they are stored."""
        return self.weight.numel() + (0 if self.bias is None else self.bias.numel())

    def _multiply_packed(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return out


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
