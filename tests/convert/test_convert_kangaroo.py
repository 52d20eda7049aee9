"""A published Kangaroo adapter becomes a module of ours: equal tensors, equal output, and damage is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.compose.schema import ModelConfig
from bench.convert.cli import ConvertConfig, convert_module
from bench.errors import UserError
from bench.runtime.decoder import Decoder
from methods.kangaroo.draft import Kangaroo
from tests.convert.published import State, kangaroo_adapter, save_config, save_kangaroo
from tests.methods.small import prompt, random_decoder, run

QUERY = "layers.0.self_attn.q_proj.weight"
Change = Callable[[State], object]
SETTINGS = {"exit_layer": None, "draft_length": 3, "threshold": 0.0}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return random_decoder()


def convert(tmp_path: Path, source: Path, exit_layer: int | None = 2) -> Path:
    model, out = ModelConfig(path=str(save_config(tmp_path / "target"))), tmp_path / "out"
    convert_module(
        ConvertConfig(kind="kangaroo", model=model, source=str(source), exit_layer=exit_layer, out=str(out))
    )
    return out


@pytest.mark.parametrize("prefix", ["", "module."], ids=["bare keys", "keys as DDP writes them"])
def test_the_adapter_comes_through_whole_and_drafts_alike(
    tmp_path: Path, decoder: Decoder, prefix: str
) -> None:
    state = kangaroo_adapter(decoder)
    published = {prefix + name: tensor for name, tensor in state.items()}
    published[f"{prefix}layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    out = convert(tmp_path, save_kangaroo(tmp_path / "published", published))
    tensors = load_file(out / "module.safetensors")
    assert tensors.keys() == state.keys()
    assert len(tensors) == 6
    assert all(torch.equal(tensors[name], tensor) for name, tensor in state.items())
    assert json.loads((out / "module.json").read_text())["exit_layer"] == 2
    converted = Kangaroo(weights=str(out), **SETTINGS)
    converted.attach(decoder)
    direct = Kangaroo(weights=None, **SETTINGS)
    direct.use(decoder, {name: tensor.float() for name, tensor in state.items()}, 2)
    expected, got = run(direct, prompt()), run(converted, prompt())
    assert (got.ids, got.rounds) == (expected.ids, expected.rounds)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.pop("norm.weight"), r"norm\.weight is missing"),
        (lambda state: state.pop(QUERY), r"layers\.0\.self_attn\.q_proj\.weight is missing"),
        (
            lambda state: state.update({QUERY: torch.zeros(32, 31)}),
            r"q_proj\.weight has shape \(32, 31\), this model needs \(32, 32\)",
        ),
        (
            lambda state: state.update({"layers.0.mlp.up_proj.weight": torch.zeros(1)}),
            r"layers\.0\.mlp\.up_proj\.weight is unexpected",
        ),
    ],
    ids=["no norm", "no queries", "of another width", "a whole layer"],
)
def test_what_does_not_fit_is_refused_by_the_name_of_the_key(
    tmp_path: Path, decoder: Decoder, change: Change, what: str
) -> None:
    state = kangaroo_adapter(decoder)
    change(state)
    with pytest.raises(UserError, match=what):
        convert(tmp_path, save_kangaroo(tmp_path / "published", state))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"num_attention_heads": 8}, "num_attention_heads 8, the adapter of this model has 4"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps 0.001"),
        ({"num_hidden_layers": 32}, "num_hidden_layers 32, the adapter of this model has 1"),
    ],
    ids=["heads", "epsilon", "a whole model"],
)
def test_a_config_that_contradicts_the_target_is_refused(
    tmp_path: Path, decoder: Decoder, config: dict[str, float], what: str
) -> None:
    source = save_kangaroo(tmp_path / "published", kangaroo_adapter(decoder), **config)
    with pytest.raises(UserError, match=what):
        convert(tmp_path, source)


@pytest.mark.parametrize("exit_layer", [None, 0, 6])
def test_the_exit_layer_must_be_said(tmp_path: Path, decoder: Decoder, exit_layer: int | None) -> None:
    source = save_kangaroo(tmp_path / "published", kangaroo_adapter(decoder))
    with pytest.raises(UserError, match=rf"exit_layer must lie in 1\.\.5, got {exit_layer}") as caught:
        convert(tmp_path, source, exit_layer)
    assert "exit_layer=2" in caught.value.fix
