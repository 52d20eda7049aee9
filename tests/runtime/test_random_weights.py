"""Models of a given shape: the same weights for a seed, sound passes, every shipped shape readable."""

from pathlib import Path

import pytest
import torch

from bench.errors import UserError
from bench.runtime.loading import RuntimeOptions, load_config
from bench.runtime.model_config import decoder_config
from bench.runtime.random_weights import random_decoder, random_tensors, thin_decoder
from tests.methods.small import CPU, FAMILIES
from tests.methods.small import prompt as some_ids

OPTIONS = RuntimeOptions(CPU, torch.float32, 64)
SHAPES = Path(__file__).resolve().parents[2] / "bench" / "assets" / "shapes"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_is_enough_to_decode(family: str, tmp_path: Path) -> None:
    config = FAMILIES[family]
    config.architectures = [{"llama": "Llama", "qwen3": "Qwen3", "gemma": "Gemma"}[family] + "ForCausalLM"]
    config.save_pretrained(tmp_path)
    first, again = (random_decoder(tmp_path, OPTIONS) for _ in range(2))
    logits = first.prefill(some_ids())
    assert bool(logits.isfinite().all())
    assert torch.equal(logits, again.prefill(some_ids()))
    assert not torch.equal(logits, random_decoder(tmp_path, OPTIONS, seed=1).prefill(some_ids()))


def test_matrices_are_drawn_and_norms_are_one() -> None:
    tensors = random_tensors(FAMILIES["llama"], OPTIONS, 0)
    assert float(tensors["model.layers.0.mlp.up_proj.weight"].std()) == pytest.approx(0.02, rel=0.1)
    assert bool((tensors["model.norm.weight"] == 1).all())


def test_a_thin_decoder_is_all_depth() -> None:
    thin = thin_decoder(24, OPTIONS)
    assert thin.depth == 24
    assert thin.parameters < 100_000
    assert bool(thin.prefill(torch.zeros(3, dtype=torch.int64)).isfinite().all())


@pytest.mark.parametrize(
    ("name", "layers", "vocab"),
    [("7b", 32, 32000), ("1b", 16, 128256), ("125m", 16, 8192), ("60m", 16, 8192)],
)
def test_every_shipped_shape_is_one_the_decoder_runs(name: str, layers: int, vocab: int) -> None:
    shape = decoder_config(load_config(SHAPES / name))
    assert (shape.layers, shape.vocab) == (layers, vocab)


def test_a_folder_without_a_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        random_decoder(tmp_path, OPTIONS)
