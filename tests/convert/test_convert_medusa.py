"""Published Medusa heads become a module of ours: equal tensors, equal output, and damage is named."""

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
from methods.core.autoregressive import Autoregressive
from methods.core.tree_choice import choose_tree
from methods.medusa.draft import HeadLayout, Medusa
from methods.medusa.module import MedusaHeads
from tests.convert.published import State, medusa_heads, save_config, save_medusa
from tests.methods.small import CPU, prompt, random_decoder, run

Change = Callable[[State], object]
SETTINGS = {"tree": None, "acceptance": "exact", "epsilon": 0.09, "delta": 0.3, "heads": 1, "decay": 1.0}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return random_decoder()


def convert(tmp_path: Path, source: Path) -> Path:
    model = ModelConfig(path=str(save_config(tmp_path / "target")))
    out = tmp_path / "out"
    convert_module(ConvertConfig(kind="medusa", model=model, source=str(source), out=str(out)))
    return out


def test_the_heads_come_through_whole_and_draft_alike(tmp_path: Path, decoder: Decoder) -> None:
    state = medusa_heads(decoder)
    out = convert(tmp_path, save_medusa(tmp_path / "published", state))
    tensors = load_file(out / "module.safetensors")
    assert {name: tensor.dtype for name, tensor in tensors.items()} == dict.fromkeys(state, torch.bfloat16)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in state.items())
    converted = Medusa(weights=str(out), **SETTINGS)
    converted.attach(decoder)
    direct = Medusa(weights=None, **SETTINGS)
    tree = choose_tree("mc_sim_7b_63", None, 5, "medusa", CPU)
    direct.use(decoder, {name: tensor.float() for name, tensor in state.items()}, tree, HeadLayout(5))
    expected = run(direct, prompt())
    got = run(converted, prompt())
    assert (got.ids, got.rounds) == (expected.ids, expected.rounds)
    plain = Autoregressive()
    plain.attach(decoder)
    assert got.ids == run(plain, prompt()).ids


def test_the_keys_count_the_heads_and_the_provenance_says_where_they_came_from(
    tmp_path: Path, decoder: Decoder
) -> None:
    source = save_medusa(tmp_path / "published", medusa_heads(decoder, 3))
    facts = json.loads((convert(tmp_path, source) / "module.json").read_text())
    assert (facts["method"], facts["heads"], facts["model"]) == ("medusa", 3, "target")
    assert "tree" not in facts, "the published tree is four deep, beyond three heads"
    assert facts["converted"]["file"] == "medusa_lm_head.pt"
    assert len(facts["converted"]["sha256"]) == 64


@pytest.mark.parametrize("rename", ["{k}.0.linear", "{k}.linear"], ids=["inference server", "short names"])
def test_heads_that_share_the_targets_lm_head_load_and_draft_alike(
    tmp_path: Path, decoder: Decoder, rename: str
) -> None:
    """Version 2, as text-generation-inference reads it: a safetensors file with the blocks alone."""
    layout = HeadLayout(4, own_lm_heads=False)
    state = medusa_heads(decoder, layout=layout)
    named = {
        f"{rename.format(k=name[0])}.{name.rpartition('.')[2]}": tensor for name, tensor in state.items()
    }
    folder = save_medusa(tmp_path / "published", named, "medusa_lm_head.safetensors")
    out = convert(tmp_path, folder)
    facts = json.loads((out / "module.json").read_text())
    assert (facts["heads"], facts["blocks"], facts["own_lm_heads"]) == (4, 1, False)
    assert set(load_file(out / "module.safetensors")) == set(state)
    converted = Medusa(weights=str(out), **SETTINGS)
    converted.attach(decoder)
    rows = torch.randn(3, decoder.config.width)
    for k in range(4):
        weight, bias = (state[f"{k}.0.linear.{part}"].float() for part in ("weight", "bias"))
        by_hand = decoder.lm_head(rows + torch.nn.functional.silu(rows @ weight.T + bias))
        torch.testing.assert_close(converted._proposer(rows)[:, k], by_hand)
    plain = Autoregressive()
    plain.attach(decoder)
    assert run(converted, prompt()).ids == run(plain, prompt()).ids


def test_heads_of_several_blocks_load_as_the_inference_server_reads_them(
    tmp_path: Path, decoder: Decoder
) -> None:
    layout = HeadLayout(3, blocks=2)
    out = convert(tmp_path, save_medusa(tmp_path / "published", medusa_heads(decoder, layout=layout)))
    method = Medusa(weights=str(out), **{**SETTINGS, "tree": "chain"})
    method.attach(decoder)
    module = MedusaHeads(decoder.config.width, decoder.config.vocab, layout)
    module.load_state_dict(
        {name: value.float() for name, value in load_file(out / "module.safetensors").items()}
    )
    rows = torch.randn(5, decoder.config.width)
    expected = torch.stack([head(rows) for head in module], dim=1)
    torch.testing.assert_close(method._proposer(rows), expected)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.pop("2.0.linear.bias"), r"2\.0\.linear\.bias is missing"),
        (lambda state: state.pop("4.1.weight"), r"4\.1\.weight is missing"),
        (lambda state: state.update({"0.2.weight": torch.zeros(1)}), r"0\.2\.weight is unexpected"),
        (
            lambda state: state.update({"1.1.weight": torch.zeros(95, 32)}),
            r"1\.1\.weight has shape \(95, 32\), this model needs \(96, 32\)",
        ),
        (
            lambda state: state.update({"3.0.linear.bias": torch.full((32,), float("nan"))}),
            r"3\.0\.linear\.bias holds numbers that are not finite",
        ),
        (
            lambda state: state.update({"0.1.weight": torch.zeros(96, 32, dtype=torch.int8)}),
            r"0\.1\.weight holds int8 numbers",
        ),
        (
            lambda state: state.update({"medusa_head.0.1.weight": torch.zeros(1)}),
            "is of a Medusa-2 model",
        ),
        (
            lambda state: state.update({"0.1.linear.weight": torch.zeros(1)}),
            r"0\.1\.linear\.bias is missing",
        ),
    ],
    ids=[
        "no bias, as in vLLM's copy",
        "no LM head",
        "a key too many",
        "of another vocabulary",
        "not finite",
        "quantised",
        "Medusa-2",
        "one deeper head",
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_the_key(
    tmp_path: Path, decoder: Decoder, change: Change, what: str
) -> None:
    state = medusa_heads(decoder)
    change(state)
    with pytest.raises(UserError, match=what):
        convert(tmp_path, save_medusa(tmp_path / "published", state))
    assert not (tmp_path / "out").exists()
