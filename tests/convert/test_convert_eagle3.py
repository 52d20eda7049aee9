"""Published EAGLE-3 drafters become a module of ours, from both layouts; damage is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.compose.schema import ModelConfig
from bench.convert.cli import ConvertConfig, convert_module
from bench.errors import UserError
from bench.runtime.decoder import Decoder
from methods.eagle3.draft import Eagle3
from methods.eagle3.layer import Layout
from tests.convert.published import State, randomised, save_config
from tests.methods.small import prompt, random_decoder, run

IDS = (7, 3, 90, 41)
"""Tokens that the drafter knows, not in order, as no published list is but some could be."""
CONFIG: dict[str, Any] = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "rope_theta": 5000.0,
}
Change = Callable[[State, dict[str, Any]], object]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return random_decoder()


def published(decoder: Decoder) -> State:
    layout = Layout(taps=(2, 3, 3), mlp_width=48, draft_ids=IDS)
    state = randomised(
        {name: torch.empty(shape) for name, shape in layout.shapes(decoder.config).items()}, 4, torch.bfloat16
    )
    allowed = torch.zeros(decoder.config.vocab, dtype=torch.bool)
    allowed[list(IDS)] = True
    return state | {"d2t": torch.tensor(IDS) - torch.arange(len(IDS)), "t2d": allowed}


def as_speculators(state: State) -> State:
    return {name.replace("midlayer.", "layers.0."): tensor for name, tensor in state.items()}


def convert(tmp_path: Path, state: State, config: dict[str, Any]) -> Path:
    source, out = tmp_path / "published", tmp_path / "out"
    source.mkdir()
    save_file(state, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(config))
    model = ModelConfig(path=str(save_config(tmp_path / "target")))
    convert_module(ConvertConfig(kind="eagle3", model=model, source=str(source), out=str(out)))
    return out


def decoded(out: Path, decoder: Decoder) -> Any:
    method = Eagle3(weights=str(out), draft_length=3, threshold=0.0, unroll=1, own_lm_head=True)
    method.attach(decoder)
    return run(method, prompt())


def test_the_authors_layout_comes_through_with_its_list_in_order(tmp_path: Path, decoder: Decoder) -> None:
    state = published(decoder)
    out = convert(tmp_path, state, {**CONFIG, "draft_vocab_size": 4})
    tensors, facts = load_file(out / "module.safetensors"), json.loads((out / "module.json").read_text())
    assert facts["draft_ids"] == sorted(IDS)
    assert (facts["taps"], facts["mlp_width"], facts["rope_theta"]) == ([2, 3, 3], 48, 5000.0)
    order = [IDS.index(token) for token in sorted(IDS)]
    assert torch.equal(tensors["lm_head.weight"], state["lm_head.weight"][order])
    assert torch.equal(tensors["midlayer.self_attn.q_proj.weight"], state["midlayer.self_attn.q_proj.weight"])
    assert set(decoded(out, decoder).counts) == set()


def test_the_speculators_layout_drafts_the_same(tmp_path: Path, decoder: Decoder) -> None:
    state = published(decoder)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    theirs = {"speculators_model_type": "eagle3", "transformer_layer_config": CONFIG, "norm_before_fc": False}
    first = decoded(convert(tmp_path / "a", state, CONFIG), decoder)
    others = as_speculators(state) | {"embed_tokens.weight": torch.zeros(96, 32)}
    second = decoded(convert(tmp_path / "b", others, theirs), decoder)
    assert (first.ids, first.rounds) == (second.ids, second.rounds)


def test_a_residual_after_the_norm_is_another_drafter(tmp_path: Path, decoder: Decoder) -> None:
    config = {**CONFIG, "norm_before_residual": True, "eagle_aux_hidden_state_layer_ids": [1, 2, 4]}
    out = convert(tmp_path, published(decoder), config)
    facts = json.loads((out / "module.json").read_text())
    assert (facts["norm_before_residual"], facts["taps"]) == (True, [1, 2, 4])
    decoded(out, decoder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state, _: state.pop("fc.weight"), r"fc\.weight is missing"),
        (lambda state, _: state.update({"layers.1.mlp.up_proj.weight": torch.zeros(1)}), "is unexpected"),
        (lambda state, _: state["d2t"].add_(90), "names tokens outside of the model's 96"),
        (lambda state, _: state["t2d"].logical_not_(), "do not name the same tokens"),
        (lambda state, _: state.update({"d2t": torch.tensor([7, 6, 5, 4])}), "do not name the same tokens"),
        (lambda _, config: config.update(num_hidden_layers=2), "says num_hidden_layers 2"),
        (lambda _, config: config.update(num_attention_heads=8), "says num_attention_heads 8"),
        (lambda _, config: config.update(norm_before_fc=True), "sets norm_before_fc"),
        (lambda _, config: config.update(rope_scaling={"type": "linear"}), "scales the rotary angles"),
        (lambda _, config: config.update(transformer_layer_config=[1]), "must be an object"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, decoder: Decoder, change: Change, what: str) -> None:
    state, config = published(decoder), dict(CONFIG)
    change(state, config)
    with pytest.raises(UserError, match=what):
        convert(tmp_path, state, config)
