"""Projections give the plain product, whichever kernel the shapes select.

Shapes: R rows, I inputs, O outputs.
"""

import math

import pytest
import torch
from torch import Tensor

import bench.runtime.linear
from bench.runtime.int8_rows import rounded
from bench.runtime.linear import PACKED_SIZE, Linear, _Torch, rms_norm
from tests.pairwise import pairwise
from tests.runtime.models import needs_compiler


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = {"small": (40, 24), "ragged": (43, 24), "large": (800, 700)}
PRODUCTS = ["compiled", "torch"]
ROWS = [1, 3, 4, 7, 12, 13, 33]
PREPACKED = [("torch", "large", rows, has_bias) for rows in (3, 4) for has_bias in (False, True)]
"""Few rows take a transposed copy of a large weight, from 4 on the prepacked one."""


@pytest.fixture
def products(request: pytest.FixtureRequest) -> str:
    """Which products multiply: the compiled ones, where there are any, or torch's."""
    if request.param == "torch":
        request.getfixturevalue("torch_products")
    return str(request.param)


@pytest.fixture
def weight(request: pytest.FixtureRequest) -> Tensor:
    """A random weight, shape [O, I]."""
    shape = WEIGHTS[request.param]
    return normal(*shape) / math.sqrt(shape[1])


@pytest.mark.parametrize(
    ("products", "weight", "rows", "has_bias"),
    list(dict.fromkeys([*pairwise(PRODUCTS, list(WEIGHTS), ROWS, [False, True]), *PREPACKED])),
    indirect=["products", "weight"],
)
@pytest.mark.usefixtures("products")
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
        assert torch.allclose(linear.add_to(residual, x, 0.3), residual + 0.3 * linear(x), atol=1e-5)
        assert torch.equal(residual, before)

    def test_rows_do_not_depend_on_their_order(self, weight: Tensor, rows: int, has_bias: bool) -> None:
        linear = Linear(weight, normal(weight.shape[0], seed=1) if has_bias else None)
        x = normal(rows, weight.shape[1], seed=2)
        assert torch.allclose(linear(x.flip(0)).flip(0), linear(x), atol=1e-5)


@needs_compiler
@pytest.mark.parametrize(("shape", "has_bias"), pairwise(list(WEIGHTS.values()), [False, True]))
class TestInt8:
    """The product of weights in 8 bits is the plain product of the weights that they stand for."""

    def test_equals_the_definition(self, shape: tuple[int, int], has_bias: bool) -> None:
        weight, bias = normal(*shape), normal(shape[0], seed=1) if has_bias else None
        small = Linear(weight, bias).in_int8()
        numbers, scales = rounded(weight)
        assert torch.equal(small.weight, numbers * scales)
        assert float((small.weight - weight).abs().max()) <= float(scales.max()) / 2 + 1e-6
        for rows in ROWS:
            x = normal(rows, shape[1], seed=2)
            expected = Linear(numbers * scales, bias)(x)
            assert torch.allclose(small(x), expected, atol=1e-3)
            assert torch.allclose(small.add_to(expected, x), 2 * expected, atol=2e-3)

    def test_a_row_has_the_same_bits_whatever_other_rows_there_are(
        self, shape: tuple[int, int], has_bias: bool
    ) -> None:
        small = Linear(normal(*shape), normal(shape[0], seed=1) if has_bias else None).in_int8()
        x = normal(max(ROWS), shape[1], seed=2)
        alone = torch.cat([small(row[None]) for row in x])
        for rows in ROWS:
            assert torch.equal(small(x[:rows]), alone[:rows])

    def test_some_outputs_keep_their_weights(self, shape: tuple[int, int], has_bias: bool) -> None:
        small = Linear(normal(*shape), normal(shape[0], seed=1) if has_bias else None).in_int8()
        chosen, x = torch.tensor([5, 0, 33]), normal(2, shape[1], seed=2)
        assert torch.allclose(small.rows(chosen)(x), small(x)[:, chosen], atol=1e-3)


@pytest.mark.parametrize("products", PRODUCTS, indirect=True)
@pytest.mark.usefixtures("products")
def test_gradients_flow_to_the_rows() -> None:
    linear, x = Linear(normal(40, 24), normal(40)), normal(3, 24).requires_grad_()
    (linear(x).sum() + linear.add_to(torch.zeros(3, 40), x).sum()).backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, 2 * linear.weight.sum(dim=0).expand(3, 24), atol=1e-5)


@pytest.mark.usefixtures("torch_products")
class TestTorchsProducts:
    def test_large_weights_are_prepacked_and_small_ones_are_not(self) -> None:
        assert is_prepacked(torch.zeros(PACKED_SIZE // 100, 100))
        assert not is_prepacked(torch.zeros(PACKED_SIZE // 100 - 1, 100))

    def test_nothing_is_prepacked_where_the_kernels_are_missing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bench.runtime.linear, "HAS_ONEDNN", False)
        assert not is_prepacked(torch.zeros(PACKED_SIZE // 100, 100))


def is_prepacked(weight: Tensor) -> bool:
    multiplier = Linear(weight)._multiplier
    assert isinstance(multiplier, _Torch)
    return multiplier._packed is not None


@pytest.mark.parametrize(
    ("products", "dtype", "rows"),
    pairwise(PRODUCTS, [torch.float16, torch.bfloat16, torch.float64], [1, 8]),
    indirect=["products"],
)
@pytest.mark.usefixtures("products")
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


@pytest.mark.parametrize("outputs", [1, 16, 37])
def test_weights_come_back_bit_by_bit(outputs: int) -> None:
    weight = normal(outputs, 24)
    linear = Linear(weight.clone())
    assert linear.parameters == weight.numel()
    assert torch.equal(linear.weight, weight)
    assert linear.weight is linear.weight
