"""A single compiled product: a projection's weights in panels, and what multiplies by them.

Shapes: R rows, I inputs, O outputs, P panels of W outputs each.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.tiers.native.build import Missing, library
from bench.runtime.tiers.native.structures import Projection


class Product:
    """Weights laid out for the compiled product, ``x @ weight.T + bias``, all of it fp32 on the CPU.

    Args:
        weight: Shape [O, I].
        bias: Shape [O], or None.
        multiply: The library's function.
    """

    __slots__ = (
        "_bias",
        "_is_ragged",
        "_multiply",
        "_outputs",
        "_packed",
        "_reference",
        "_width",
        "projection",
    )

    def __init__(self, weight: Tensor, bias: Tensor | None, multiply: Callable[..., Any]) -> None:
        self._outputs, inputs = weight.shape
        self._packed = _pack(weight.detach(), lanes())  # [P, I, W]
        self._width = self._packed.shape[0] * lanes()
        self._is_ragged = self._outputs != self._width
        padding = (0, self._width - self._outputs)
        self._bias = None if bias is None else F.pad(bias.detach(), padding).contiguous()
        held = None if self._bias is None else self._bias.data_ptr()
        self.projection = Projection(self._packed.data_ptr(), held, inputs, self._width)
        self._reference = ctypes.byref(self.projection)
        self._multiply = multiply

    def __call__(self, x: Tensor) -> Tensor:
        """Product of `x` [R, I], shape [R, O]."""
        out = self._product(x, None)
        return out[:, : self._outputs].contiguous() if self._is_ragged else out

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual + self(x)`` as a new tensor, shape [R, O]."""
        if self._is_ragged:
            return self(x).add_(residual)
        return self._product(x, residual.contiguous())

    @property
    def weights(self) -> int:
        """Number of weights, O times I."""
        return self._outputs * self._packed.shape[1]

    def unpacked(self) -> Tensor:
        """The weights as checkpoints store them, shape [O, I]; a copy."""
        return self._packed.transpose(1, 2).reshape(self._width, -1)[: self._outputs]

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


def compiled_product(weight: Tensor, bias: Tensor | None) -> Product | None:
    """The compiled product of these weights; None on other devices, in other precisions or uncompiled."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    multiply = _multiply()
    return None if multiply is None else Product(weight, bias, multiply)


@cache
def lanes() -> int:
    """Outputs of a panel (W); only where there is a library."""
    compiled = library()
    if isinstance(compiled, Missing):
        raise RuntimeError(compiled.reason)
    compiled.lanes.restype = ctypes.c_int64
    return int(compiled.lanes())


@cache
def _multiply() -> Callable[..., Any] | None:
    """The library's product."""
    compiled = library()
    if isinstance(compiled, Missing):
        return None
    multiply = compiled.multiply
    multiply.argtypes = [ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 4, ctypes.c_int]
    multiply.restype = None
    found: Callable[..., Any] = multiply
    return found


def _pack(weight: Tensor, width: int) -> Tensor:
    """Weights [O, I] in panels, shape [P, I, W]; the last panel is filled with zeros."""
    outputs, inputs = weight.shape
    panels = -(-outputs // width)
    whole = F.pad(weight, (0, 0, 0, panels * width - outputs))
    return whole.view(panels, width, inputs).transpose(1, 2).contiguous()
