"""HAMburger's published file, as Lightning or gpt-fast lay it out, becomes a checkpoint of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from bench.compose.schema import ModelConfig
from bench.convert.cli import ConvertConfig, convert_module
from bench.convert.gpt_fast import halves_from_neighbours
from bench.convert.hamburger import EMBEDDING
from bench.errors import UserError
from bench.records.model import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions, build_decoder
from bench.runtime.model_config import decoder_config
from bench.runtime.modules import save_model
from methods.hamburger.module import HamburgerModel
from methods.hamburger.shape import HamburgerShape
from tests.convert.published import (
    State,
    gpt_fast_state,
    hamburger_state,
    neighbours,
    plain_config,
    save_config,
    save_lightning,
)
from tests.methods.hamburger.hamburgers import TUNED_SEED, random_model, unattached
from tests.methods.small import CPU, SHAPE, prompt, run

Change = Callable[[State], object]
STOP = "micro_step_decoder.stop_head.4.weight"
TIED = LlamaConfig(**SHAPE, tie_word_embeddings=True, architectures=["LlamaForCausalLM"])
"""The published model is a Llama 3.2 1B, whose LM head is its embedding."""


def tied_decoder(seed: int) -> Decoder:
    torch.manual_seed(seed)
    tensors = {name: value.clone() for name, value in LlamaForCausalLM(TIED).state_dict().items()}
    return build_decoder(TIED, tensors, RuntimeOptions(CPU, torch.float32, 256))


@pytest.fixture(scope="module")
def model() -> HamburgerModel:
    """A tuned model whose numbers bf16 holds exactly where the published file is bf16."""
    model = random_model(tied_decoder(TUNED_SEED))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith("micro_step_decoder.decoders."):
                weight.copy_(weight.bfloat16())
    return model


@pytest.fixture
def state(model: HamburgerModel) -> State:
    return hamburger_state(model)


def convert(tmp_path: Path, source: Path) -> Path:
    base = ModelConfig(path=str(save_config(tmp_path / "target", tie_word_embeddings=True)))
    out = tmp_path / "out"
    convert_module(ConvertConfig(kind="hamburger", model=base, source=str(source), out=str(out)))
    return out


def answer(folder: Path) -> Generation:
    method = unattached(weights=str(folder))
    method.attach(tied_decoder(0))
    return run(method, prompt())


def save_gpt_fast(file: Path, state: State) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(gpt_fast_state(state, TIED.num_attention_heads, TIED.num_key_value_heads), file)
    return file


@pytest.mark.parametrize("layout", ["Lightning", "gpt-fast"])
def test_the_model_comes_through_whole_and_answers_alike(
    tmp_path: Path, model: HamburgerModel, state: State, layout: str
) -> None:
    folder = tmp_path / "published"
    if layout == "Lightning":
        save_lightning(folder / "hamburger-llama-1B-0506-finish.ckpt", state)
    else:
        save_gpt_fast(folder / "model.pth", state)
    out = convert(tmp_path, folder)
    whole = model.state_dict()
    converted = load_file(out / "model.safetensors")
    assert converted.keys() == whole.keys()
    assert all(torch.equal(tensor.float(), whole[name]) for name, tensor in converted.items())
    assert {tensor.dtype for tensor in converted.values()} == {torch.bfloat16, torch.float32}
    block = json.loads((out / "config.json").read_text())["hamburger"]
    assert HamburgerShape(**{key: block[key] for key in model.shape.plain()}) == model.shape
    save_model(
        tmp_path / "trained", whole, plain_config(tie_word_embeddings=True, hamburger=model.shape.plain())
    )
    got, expected = answer(out), answer(tmp_path / "trained")
    assert (got.ids, got.rounds) == (expected.ids, expected.rounds)
    assert max(step.emitted for step in got.rounds) > 1, "groups of several tokens were made"


def test_the_shapes_of_the_published_model_are_the_authors(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    )
    shape = decoder_config(config)
    with torch.device("meta"):
        parts = HamburgerShape.for_model(shape, 4, 4)
        state = HamburgerModel(shape, parts).state_dict()
    assert (parts.merger_heads, parts.feature_layers) == (64, (3, 7, 11, 15))
    assert len(state) == 146 + 9 + 36 + 6
    assert sum(tensor.numel() for tensor in state.values()) == 1_508_478_977


def test_the_layout_of_rotary_rows_is_inverted() -> None:
    weight = torch.randn(24, 5)
    assert torch.equal(halves_from_neighbours(neighbours(weight, 3), 3), weight)


def test_a_teacher_beside_the_model_is_left_out(tmp_path: Path, state: State) -> None:
    state["teacher.teacher.model.norm.weight"] = torch.zeros(32)
    assert convert(tmp_path, save_lightning(tmp_path / "one.ckpt", state)).is_dir()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.pop(STOP), r"micro_step_decoder\.stop_head\.4\.weight is missing"),
        (lambda state: state.pop("comp_embedder.merger.pos"), r"comp_embedder\.merger\.pos is missing"),
        (lambda state: state.pop(EMBEDDING), r"model\.model\.embed_tokens\.weight is missing"),
        (
            lambda state: state.update({"model.lm_head.weight": torch.zeros(96, 32)}),
            r"model\.lm_head\.weight differs from model\.model\.embed_tokens\.weight",
        ),
        (
            lambda state: state.update({"model.model.layers.6.input_layernorm.weight": torch.zeros(32)}),
            r"model\.model\.layers\.6\.input_layernorm\.weight is unexpected",
        ),
        (
            lambda state: state.update({"comp_embedder.out_proj.bias": torch.zeros(31)}),
            r"comp_embedder\.out_proj\.bias has shape \(31,\), this model needs \(32,\)",
        ),
    ],
    ids=[
        "no stop head",
        "no positions",
        "no embedding",
        "a head of its own",
        "a layer too many",
        "misshapen",
    ],
)
@pytest.mark.parametrize("layout", ["Lightning", "gpt-fast"])
def test_what_does_not_fit_is_refused_by_the_name_of_the_key(
    tmp_path: Path, state: State, change: Change, what: str, layout: str
) -> None:
    change(state)
    if layout == "Lightning":
        source = save_lightning(tmp_path / "one.ckpt", state)
    elif EMBEDDING in state:  # without it, nothing tells the layout
        source = save_gpt_fast(tmp_path / "model.pth", state)
    else:
        return
    with pytest.raises(UserError, match=what):
        convert(tmp_path, source)
    assert not (tmp_path / "out").exists()


def test_settings_that_contradict_the_tensors_are_refused(tmp_path: Path, state: State) -> None:
    with pytest.raises(UserError, match=r"says max_steps 3, and .* is for groups of 4"):
        convert(tmp_path, save_lightning(tmp_path / "one.ckpt", state, max_steps=3))


def test_a_fused_projection_of_another_size_is_named(tmp_path: Path, state: State) -> None:
    published = gpt_fast_state(state, TIED.num_attention_heads, TIED.num_key_value_heads)
    published["model.layers.2.attention.wqkv.weight"] = torch.zeros(60, 32)
    torch.save(published, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"model\.model\.layers\.2\.attention\.wqkv\.weight is unexpected"):
        convert(tmp_path, tmp_path / "model.pth")
