"""Frozen projections, each multiplied by the fastest code for its device and precision.

In fp32 on a CPU every pass uses the compiled product (``bench/runtime/tiers/compiled/products.c``), which
gives a row the same bits whatever other rows are in the batch. Without a compiler, and in other precisions,
PyTorch multiplies: by a transposed copy for few rows, by oneDNN's prepacked copy from `PACKED_ROWS` rows and
`PACKED_SIZE` weights on. On CUDA cuBLAS takes the stored layout as it is.

Shapes: R rows, I inputs, O outputs; a panel holds the weights of W outputs, and P panels hold all.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UserError
from bench.runtime.int8_rows import rounded
from bench.runtime.tiers.compiled.library import Missing, library, required_library
from bench.runtime.tiers.compiled.structures import Projection

PACKED_SIZE = 500_000
PACKED_ROWS = 4
_PACKING_ROWS = 4  # rows that oneDNN's layout is made for; of 1 to 16, best or as good at any number of rows
HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def rearranged_copies(weights: int, device: torch.device, dtype: torch.dtype) -> int:
    """Copies in other layouts that a projection of this many weights makes; only one is made for C code."""
    if device.type != "cpu" or _is_compiled(device, dtype):
        return int(device.type == "cpu")
    return 1 + _is_packed(weights, device, dtype)


def keeps_stored_layout(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a projection keeps its weights as checkpoints store them, beside its rearranged copies."""
    return not _is_compiled(device, dtype)


def _is_compiled(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and dtype == torch.float32 and not isinstance(library(), Missing)


def _is_packed(weights: int, device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and HAS_ONEDNN and dtype == torch.float32 and weights >= PACKED_SIZE


class Linear:
    """A frozen projection, ``x @ weight.T + bias``.

    Gradients flow to `x` only, never to the weights, and only through PyTorch's own product.

    Args:
        weight: Shape [O, I], as checkpoints store it.
        bias: Shape [O], or None.
        scales: Shape [O, 1], if `weight` is int8 numbers (`bench.runtime.int8_rows`); for compiled products.

    Attributes:
        compiled: The compiled product; None on other devices, in other precisions or without a C compiler.
    """

    __slots__ = ("_multiplier", "_weight", "bias", "compiled")

    def __init__(self, weight: Tensor, bias: Tensor | None = None, scales: Tensor | None = None) -> None:
        self.bias = bias
        self.compiled = compiled_product(weight, bias, scales)
        self._weight = weight if self.compiled is None else None  # else the product holds the only copy
        self._multiplier: CompiledProduct | _Torch = self.compiled or _Torch(weight, bias)

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

    def add_to(self, residual: Tensor, x: Tensor, scale: float = 1.0) -> Tensor:
        """``residual + scale * self(x)`` as a new tensor, shape [R, O]; in one kernel where one exists."""
        if x.requires_grad and torch.is_grad_enabled():
            return torch.add(residual, self(x), alpha=scale)
        return self._multiplier.add_to(residual, x, scale)

    @property
    def buffer(self) -> Tensor:
        """The memory that its product reads, in that product's layout; writing to it changes the weights.

        Raises:
            UserError: If the product is oneDNN's, whose layout is its own.
        """
        return self._multiplier.buffer

    @property
    def shape(self) -> tuple[int, int]:
        """Number of outputs and of inputs, (O, I)."""
        return self._multiplier.shape

    def rows(self, outputs: Tensor) -> Linear:
        """The projection to some outputs alone, given by number [N], int64; a copy of their weights."""
        bias = None if self.bias is None else self.bias[outputs]
        if self._weight is None:  # without unpacking all of them, which would stay in memory
            assert self.compiled is not None
            return Linear(self.compiled.rows(outputs), bias)
        return Linear(self._weight[outputs], bias)

    def in_int8(self) -> Linear:
        """The projection with its weights rounded to 8 bits; it needs the compiled product."""
        assert self.compiled is not None  # `bench.runtime.loading.RuntimeOptions` refuses other tiers
        numbers, scales = rounded(self.compiled.unpacked())
        return Linear(numbers, self.bias, scales)

    @property
    def parameters(self) -> int:
        """Weights and biases, counted once however many copies of them are stored."""
        weights = self.weight.numel() if self.compiled is None else self.compiled.weights
        return weights + (0 if self.bias is None else self.bias.numel())


class _Torch:
    """PyTorch's products, on every device and in every precision."""

    __slots__ = ("_bias", "_packed", "_transposed")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._bias = bias
        on_cpu = weight.device.type == "cpu"
        self._packed: Tensor | None = None
        if _is_packed(weight.numel(), weight.device, weight.dtype):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKING_ROWS)
        self._transposed = weight.t().contiguous() if on_cpu else weight.t()  # [I, O]

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed is not None and x.shape[0] >= PACKED_ROWS:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
            return out
        return x @ self._transposed if self._bias is None else torch.addmm(self._bias, x, self._transposed)

    @property
    def buffer(self) -> Tensor:
        if self._packed is not None:
            raise UserError("experts of this size need compiled products", "install gcc or clang with OpenMP")
        return self._transposed

    @property
    def shape(self) -> tuple[int, int]:
        return self._transposed.shape[1], self._transposed.shape[0]

    def add_to(self, residual: Tensor, x: Tensor, scale: float) -> Tensor:
        if self._bias is not None or (self._packed is not None and x.shape[0] >= PACKED_ROWS):
            return torch.add(residual, self(x), alpha=scale)
        return torch.addmm(residual, x, self._transposed, alpha=scale)


class CompiledProduct:
    """Weights laid out for the C function ``multiply``; fp32 on the CPU.

    Args:
        weight: Shape [O, I].
        bias: Shape [O], or None.
        compiled: The library.
        scales: See `Linear`.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, compiled: ctypes.CDLL, scales: Tensor | None = None
    ) -> None:
        self._outputs, inputs = weight.shape
        self._packed = _pack(weight.detach(), compiled.lanes())  # [P, I, W]
        self._width = self._packed.shape[0] * self._packed.shape[2]
        self._is_ragged = self._outputs != self._width
        padding = (0, self._width - self._outputs)
        self._bias = None if bias is None else F.pad(bias.detach(), padding).contiguous()
        self._scales = None if scales is None else F.pad(scales[:, 0], padding).contiguous()
        pointers = [None if part is None else part.data_ptr() for part in (self._scales, self._bias)]
        self.projection = Projection(self._packed.data_ptr(), *pointers, inputs, self._width)
        self._reference = ctypes.byref(self.projection)
        self._multiply = compiled.multiply

    def __call__(self, x: Tensor) -> Tensor:
        """Product of `x` [R, I], shape [R, O]."""
        out = self._product(x, None)
        return out[:, : self._outputs].contiguous() if self._is_ragged else out

    def add_to(self, residual: Tensor, x: Tensor, scale: float) -> Tensor:
        """``residual + scale * self(x)`` as a new tensor, shape [R, O]."""
        if self._is_ragged or scale != 1.0:
            return torch.add(residual, self(x), alpha=scale)
        return self._product(x, residual.contiguous())

    @property
    def buffer(self) -> Tensor:
        """See `Linear.buffer`."""
        return self._packed

    @property
    def shape(self) -> tuple[int, int]:
        """See `Linear.shape`."""
        return self._outputs, self._packed.shape[1]

    @property
    def weights(self) -> int:
        """Number of weights, O times I."""
        return self._outputs * self._packed.shape[1]

    def unpacked(self) -> Tensor:
        """The weights as checkpoints store them, shape [O, I]; a copy."""
        plain = self._packed.transpose(1, 2).reshape(self._width, -1)[: self._outputs]
        return plain if self._scales is None else plain * self._scales[: self._outputs, None]

    def rows(self, outputs: Tensor) -> Tensor:
        """Weights of some outputs [N] as checkpoints store them, shape [N, I]; a copy."""
        lanes = self._packed.shape[2]
        plain = self._packed[outputs // lanes, :, outputs % lanes]
        return plain if self._scales is None else plain * self._scales[outputs, None]

    def _product(self, x: Tensor, residual: Tensor | None) -> Tensor:
        x = x.contiguous()
        rows = x.shape[0]
        out = x.new_empty(rows, self._width)
        scratch = None if rows == 1 else torch.empty_like(x)
        self._multiply(
            self._reference,
            rows,
            x.data_ptr(),
            None if residual is None else residual.data_ptr(),
            None if scratch is None else scratch.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out


def compiled_product(weight: Tensor, bias: Tensor | None, scales: Tensor | None) -> CompiledProduct | None:
    """The compiled product of these weights; None where `Linear` has to use PyTorch's."""
    if scales is None and not _is_compiled(weight.device, weight.dtype):
        return None
    return CompiledProduct(weight, bias, required_library(), scales)


def _pack(weight: Tensor, width: int) -> Tensor:
    """Weights [O, I] in panels of `width` outputs, shape [P, I, W]; the last one is filled with zeros."""
    outputs, inputs = weight.shape
    panels = -(-outputs // width)
    whole = F.pad(weight, (0, 0, 0, panels * width - outputs))
    return whole.view(panels, width, inputs).transpose(1, 2).contiguous()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis, with statistics in at least fp32.

    Args:
        x: Rows or heads, any shape [..., d].
        weight: Shape [d].
        eps: Added to the mean square.

    Returns:
        The shape and dtype of `x`.
    """
    width = x.shape[-1]
    if x.is_cuda or x.dtype != torch.float32:
        return F.rms_norm(x, (width,), weight, eps)
    # On CUDA `F.rms_norm` is one kernel. On a CPU it is composed of more and slower ones than the four here:
    # the length of a row, the square root of its square plus eps, a product and a division.
    length = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), _constant((width * eps) ** 0.5))
    return torch.addcdiv(_constant(0.0), torch.mul(x, weight), length, value=width**0.5)


def normed_rows(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """`rms_norm` of rows [R, d]; the rows themselves where there is no weight."""
    return x if weight is None else rms_norm(x, weight, eps)


def normed_heads(heads: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` of heads [R, H, D]: of each for a weight [D], of a row's together for a weight [H D]."""
    count, _, width = heads.shape
    return rms_norm(heads.view(count, -1, weight.numel()), weight, eps).view(count, -1, width)


@cache
def _constant(value: float) -> Tensor:
    """A number as an fp32 tensor, kept: every operation with a Python number would make a new one."""
    with torch.inference_mode(False):
        return torch.tensor(value)
