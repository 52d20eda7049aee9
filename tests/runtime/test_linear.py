"""Projections give the plain product, whichever kernel the shapes select.

Shapes: R rows, I inputs, O outputs.
"""

import math

import pytest
import torch
from torch import Tensor

import bench.runtime.linear
from bench.runtime.linear import PACKED_SIZE, Linear, rms_norm


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[(40, 24), (800, 700)], ids=["small", "prepacked"])
def weight(request: pytest.FixtureRequest) -> Tensor:
    shape: tuple[int, int] = request.param
    return normal(*shape) / math.sqrt(shape[1])


@pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("rows", [1, 3, 4, 33])
class TestLinear:
    def test_equals_the_definition(self, weight: Tensor, rows: int, has_bias: bool) -> None:
        bias = normal(weight.shape[0], seed=1) if has_bias else None
        x = normal(rows, weight.shape[1], seed=2)
        expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
        assert torch.allclose(Linear(weight, bias)(x).double(), expected, atol=1e-5)

    def test_adds_to_a_residual_without_changing_it(self, weight: Tensor, rows: int, has_bias: bool) -> None:
        linear = Linear(weight, normal(weight.shape[0], seed=1) if has_bias else None)
        x, residual = normal(rows, weight.shape[1], seed=2), normal(rows, weight.shape[0], seed=3)
        before = residual.clone()
        assert torch.allclose(linear.add_to(residual, x), residual + linear(x), atol=1e-5)
        assert torch.equal(residual, before)

    def test_rows_do_not_depend_on_their_order(self, weight: Tensor, rows: int, has_bias: bool) -> None:
        linear = Linear(weight, normal(weight.shape[0], seed=1) if has_bias else None)
        x = normal(rows, weight.shape[1], seed=2)
        assert torch.allclose(linear(x.flip(0)).flip(0), linear(x), atol=1e-5)


def test_large_weights_are_prepacked_and_small_ones_are_not() -> None:
    assert Linear(torch.zeros(PACKED_SIZE // 100, 100))._packed is not None
    assert Linear(torch.zeros(PACKED_SIZE // 100 - 1, 100))._packed is None


@pytest.mark.parametrize(("outputs", "inputs"), [(700, 800), (800, 700)], ids=["more inputs", "more outputs"])
@pytest.mark.parametrize("is_amd", [True, False], ids=["AMD", "others"])
def test_only_large_weights_with_more_inputs_are_read_as_stored_and_only_on_amd(
    monkeypatch: pytest.MonkeyPatch, outputs: int, inputs: int, is_amd: bool
) -> None:
    monkeypatch.setattr(bench.runtime.linear, "is_amd", lambda: is_amd)
    weight, x = normal(outputs, inputs) / 28, normal(1, inputs, seed=2)
    linear = Linear(weight)
    is_stored = linear._transposed.data_ptr() == weight.data_ptr()
    assert is_stored == (is_amd and inputs > outputs)
    assert torch.allclose(linear(x), x @ weight.T, atol=1e-5)
    small = normal(40, 50)
    assert Linear(small)._transposed.data_ptr() != small.data_ptr()


def test_nothing_is_prepacked_where_the_kernels_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.runtime.linear, "HAS_ONEDNN", False)
    assert Linear(torch.zeros(PACKED_SIZE // 100, 100))._packed is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rows", [1, 8])
def test_other_precisions(dtype: torch.dtype, rows: int) -> None:
    weight, x = normal(800, 700).to(dtype) / 26, normal(rows, 700, seed=2).to(dtype)
    got = Linear(weight)(x)
    assert got.dtype == dtype
    assert torch.allclose(got.double(), x.double() @ weight.double().T, atol=0.03)


def test_parameters_are_counted_once() -> None:
    assert Linear(torch.zeros(5, 7)).parameters == 35
    assert Linear(torch.zeros(5, 7), torch.zeros(5)).parameters == 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 32), (5, 32), (5, 3, 16)], ids=str)
def test_rms_norm_divides_by_the_root_mean_square(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, weight = 3 * normal(*shape).to(dtype), normal(shape[-1], seed=1).to(dtype)
    before = x.clone()
    wide = x.double()
    expected = wide / (wide.square().mean(dim=-1, keepdim=True) + 1e-3).sqrt() * weight.double()
    got = rms_norm(x, weight, 1e-3)
    assert got.dtype == dtype
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-12}.get(dtype, 0.05)
    assert torch.allclose(got.double(), expected, atol=tolerance)
    assert torch.equal(x, before)
