"""A method's weights in 8 bits: what is kept, what is refused, and that they are read wherever others are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.convert.int8 import convert_int8
from bench.errors import UserError
from bench.runtime.int8_rows import LARGEST, in_int8, restored
from bench.runtime.modules import WEIGHTS_FILE, load_module, save_module
from bench.runtime.tensor_header import SCALES, count_parameters

SHAPES = {"matrix.weight": (96, 64), "matrix.bias": (96,), "small.weight": (4, 64)}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    made = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    made["matrix.weight"][7] = 0
    return made


def test_numbers_are_off_by_half_a_scale_at_most_and_small_tensors_not_at_all() -> None:
    before = tensors()
    after = restored(in_int8(before))
    assert after.keys() == before.keys()
    large = before["matrix.weight"]
    bound = large.abs().amax(dim=1, keepdim=True) / (2 * LARGEST)
    assert bool(((after["matrix.weight"] - large).abs() <= bound * 1.0001).all())
    assert all(torch.equal(after[name], before[name]) for name in ("matrix.bias", "small.weight"))


def test_a_converted_module_is_read_and_counted_like_any_other(tmp_path: Path) -> None:
    save_module(tmp_path / "plain", tensors(), {"method": "any", "rank": 8})
    convert_int8(tmp_path / "plain", tmp_path / "small")
    loaded = load_module(tmp_path / "small", SHAPES, torch.zeros(1, dtype=torch.bfloat16))
    assert {tensor.dtype for tensor in loaded.values()} == {torch.bfloat16}
    assert torch.allclose(loaded["matrix.weight"].float(), tensors()["matrix.weight"], atol=0.03)
    files = [tmp_path / folder / WEIGHTS_FILE for folder in ("plain", "small")]
    assert count_parameters(files[0]) == count_parameters(files[1])
    assert (tmp_path / "small/module.json").read_text() == (tmp_path / "plain/module.json").read_text()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda stored: stored.pop("matrix.weight" + SCALES), "int8 numbers"),
        (lambda stored: stored.pop("matrix.weight"), "matrix.weight is missing"),
        (lambda stored: stored.update({"matrix.weight" + SCALES: torch.ones(5, 1)}), "is unexpected"),
    ],
    ids=["no_scales", "no_numbers", "scales_of_another"],
)
def test_numbers_without_their_scales_are_refused(tmp_path: Path, damage: object, complaint: str) -> None:
    stored = in_int8(tensors())
    damage(stored)  # type: ignore[operator]
    save_module(tmp_path, stored, {"method": "any"})
    with pytest.raises(UserError, match=complaint):
        load_module(tmp_path, SHAPES, torch.zeros(1))


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no module.safetensors and no model.safetensors"):
        convert_int8(tmp_path, tmp_path / "out")
