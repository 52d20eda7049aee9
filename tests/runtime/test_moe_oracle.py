"""Mixtures of experts give transformers' logits and ids, however a method cuts a pass.

The classes of `tests.runtime.test_decoder_oracle` are run again, on models with experts.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder, Skip, Tier
from bench.runtime.families import MoeConfig
from bench.runtime.linear import Linear, rms_norm
from bench.runtime.loading import load_decoder
from bench.runtime.modules import weight_bytes
from bench.runtime.moe import Expert, Moe, ResidentExperts
from bench.runtime.sampling import Sampler, Sampling
from bench.runtime.tier_choice import choose_tier
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, Method, NoClock
from methods.training.trained_layer import layer_state
from tests.runtime import test_decoder_oracle as oracle
from tests.runtime.models import CPU, Pair, options, oracle_logits, tiny_model, tiny_pair
from tests.runtime.moes import MOES
from tests.runtime.tiny import built

PROMPT, MORE = oracle.PROMPT, oracle.MORE
TIERS = ("static", "eager")
BOTH_TIERS = ("olmoe", "qwen2-shared-expert")
CASES = [
    pytest.param((name, tier), id=f"{name}-{tier}")
    for place, name in enumerate(MOES)
    for tier in (TIERS if name in BOTH_TIERS else TIERS[place % 2 :][:1])
]


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name, tier = request.param
    return tiny_pair(MOES[name], tmp_path_factory.mktemp("checkpoint"), tier)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """What the classes below use for cases that do not depend on the family."""
    return tiny_pair(MOES["olmoe"], tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class TestPasses(oracle.TestPasses):
    """A pass over rows equals a fresh forward of the oracle."""


class TestLayerRanges(oracle.TestLayerRanges):
    """Layers may be run in parts, and shallow ones may run ahead."""


class TestTrees(oracle.TestTrees):
    """A tree pass verifies every path at once."""


class TestReadOnlyRows(oracle.TestReadOnlyRows):
    """Rows that read but never write."""


def mixture(decoder: Decoder, layer: int = 0) -> Moe:
    found = decoder.layers[layer].mlp
    assert isinstance(found, Moe)
    return found


def test_a_skipped_mixture_equals_an_oracle_whose_experts_give_zero(llama: Pair) -> None:
    bypassed = tiny_model(llama.oracle.config)
    for layer in (0, 2):
        bypassed.model.layers[layer].mlp.experts.down_proj.zero_()
    decoder = llama.decoder
    decoder.cache.truncate(0)
    rows = decoder.placement.chain(0, len(PROMPT))
    embedded = decoder.embed(torch.tensor(PROMPT))
    got = decoder.head(decoder.run_layers(embedded, rows, skip=Skip(mlp=frozenset({0, 2}))))
    oracle.assert_same(got, oracle_logits(bypassed, PROMPT))


def test_a_row_has_the_same_bits_whatever_rows_are_beside_it(llama: Pair) -> None:
    rows = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))
    together = mixture(llama.decoder)(rows, 1e-5, "silu")
    alone = torch.cat([mixture(llama.decoder)(row[None], 1e-5, "silu") for row in rows])
    assert float((together - alone).abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["olmoe", "mixtral", "qwen2-shared-expert", "qwen3"])
def test_experts_stored_as_one_tensor_are_read_too(name: str, tmp_path: Path) -> None:
    each = tiny_pair(MOES[name], tmp_path)
    stored = set(load_file(tmp_path / "model.safetensors"))
    fused = {key: value.contiguous() for key, value in each.oracle.state_dict().items()}
    assert any(key.endswith("experts.gate_up_proj") for key in fused)
    assert not any(key.endswith("experts.gate_up_proj") for key in stored)
    save_file(fused, tmp_path / "model.safetensors", {"format": "pt"})
    again = load_decoder(tmp_path, options())
    assert torch.equal(again.prefill(torch.tensor(PROMPT)), each.decoder.prefill(torch.tensor(PROMPT)))


def test_memory_counts_experts_stored_as_one_tensor(tmp_path: Path) -> None:
    each = tiny_pair(MOES["olmoe"], tmp_path)
    file = tmp_path / "model.safetensors"
    before = weight_bytes([file], CPU, torch.float32)
    save_file(dict(each.oracle.state_dict()), file, {"format": "pt"})
    assert weight_bytes([file], CPU, torch.float32) == before


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    tiny_pair(MOES["mixtral"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.block_sparse_moe.experts.3.w2.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"layers\.1\.block_sparse_moe\.experts\.3\.w2\.weight is missing"):
        load_decoder(tmp_path, options())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts_per_tok": 7}, "num_experts_per_tok is 7, not in 1..6"),
        ({"num_experts": "many"}, "num_experts"),
        ({"clip_qkv": 8.0}, "clip_qkv is not supported"),
    ],
    ids=["more-experts-than-there-are", "no-number", "clipped-queries"],
)
def test_an_odd_configuration_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    tiny_pair(MOES["olmoe"], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message):
        load_decoder(tmp_path, options())


@pytest.mark.parametrize("has_gate", [True, False], ids=["gated", "plain"])
def test_a_shared_expert_computes_every_row(has_gate: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    width, inner = 8, 6

    def linear(outputs: int, inputs: int) -> Linear:
        return Linear(torch.randn(outputs, inputs, generator=generator))

    def expert() -> Expert:
        return Expert(linear(2 * inner, width), linear(width, inner))

    config = MoeConfig(3, 1, inner, is_normalised=False, shared_width=inner, has_shared_gate=has_gate)
    shared, gate, norm = expert(), linear(1, width) if has_gate else None, torch.ones(width)
    bare = Moe(norm, linear(3, width), ResidentExperts(expert() for _ in range(3)), config)
    whole = Moe(norm, bare.router, bare.experts, config, shared, gate)
    rows = torch.randn(5, width, generator=generator)
    normed = rms_norm(rows, norm, 1e-5)
    extra: Tensor = shared(normed, "silu")
    expected = extra if gate is None else torch.sigmoid(gate(normed)) * extra
    oracle.assert_same(whole(rows, 1e-5, "silu") - bare(rows, 1e-5, "silu"), expected)
    assert whole.active_parameters - bare.active_parameters == shared.parameters + (width if has_gate else 0)


def test_a_pass_of_one_row_reads_the_experts_of_one_row(llama: Pair) -> None:
    numbers = {name: value.numel() for name, value in llama.oracle.named_parameters() if "norm" not in name}
    assert llama.decoder.parameters == sum(numbers.values())
    idle = sum(number for name, number in numbers.items() if ".experts." in name) * 4 // 6
    embedding = numbers["model.embed_tokens.weight"]
    assert llama.decoder.pass_parameters == sum(numbers.values()) - embedding - idle


@pytest.mark.parametrize("tier", ["compiled", "graph"])
def test_tiers_without_experts_are_refused_by_name(tier: Tier) -> None:
    device = CPU if tier == "compiled" else torch.device("cuda")
    with pytest.raises(UserError, match=f"runtime.tier={tier} does not run mixtures of experts"):
        choose_tier(tier, device, has_experts=True)


def test_auto_says_why_it_takes_a_slower_tier(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert choose_tier("auto", CPU, has_experts=True) == "static"
    assert "do not run mixtures of experts" in caplog.text


def answer(method: Method, prompt: Tensor) -> list[int]:
    made = method.generate(prompt, Budget(20, frozenset()), Sampler(Sampling(), CPU, 0), NoClock())
    return list(made.cut(20, frozenset()).ids)


@pytest.mark.parametrize(
    "name",
    ["layerskip", "prompt_lookup", "token_recycling", "lookahead", "draft_verify", "swift", "del"],
)
def test_methods_without_trained_layers_give_the_ids_of_the_model(name: str, llama: Pair) -> None:
    plain = Autoregressive()
    plain.attach(llama.decoder)
    prompt = torch.tensor(PROMPT)
    extra = {
        "layerskip": ("method.exit_layer=1",),
        "swift": ("method.keep_first_last=false",),
        "draft_verify": ("method.weights=null", "method.skip_attention=[1]", "method.skip_mlp=[0]"),
    }
    method = built(name, llama.decoder, *extra.get(name, ()))
    assert answer(method, prompt) == answer(plain, prompt)


def test_training_a_copy_of_a_layer_with_experts_is_refused_in_plain_words(llama: Pair) -> None:
    with pytest.raises(UserError, match="has mixtures of experts"):
        layer_state(llama.decoder.layers[0], llama.decoder.config)
