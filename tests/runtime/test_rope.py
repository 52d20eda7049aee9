"""Rotary tables: a rotation by position, scaled by the checkpoint's own rule.

Shapes: S positions, D head width.
"""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from bench.errors import UserError
from bench.runtime.model_config import decoder_config
from bench.runtime.placements import make_placement
from bench.runtime.rotary import RotaryRule
from bench.runtime.rows import Placement, rotate
from tests.runtime.models import CONTEXT, CPU, LLAMA3, LONGROPE, TINY, rope

RULES = {
    "default": rope("default"),
    "linear": rope("linear", factor=2.0),
    "dynamic": rope("dynamic", factor=2.0),
    "llama3": LLAMA3,
    "yarn": rope("yarn", factor=4.0, original_max_position_embeddings=12),
}


def tables(config: Any, capacity: int, prompt: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The tables that a text with a prompt of this many tokens is rotated by."""
    placement = make_placement(config, decoder_config(config), capacity, CPU, torch.float32)
    placement.begin(prompt)
    return placement.rotation(0, capacity)


@pytest.mark.parametrize("capacity", [CONTEXT, 2 * CONTEXT], ids=["within the context", "past the context"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_tables_equal_those_of_transformers_for_a_prompt_of_full_length(
    rule: dict[str, float], capacity: int
) -> None:
    config = LlamaConfig(**TINY, rope_parameters=rule)
    expected = LlamaRotaryEmbedding(config)(torch.empty(0), torch.arange(capacity)[None])
    cos, sin = tables(config, capacity, prompt=capacity)
    assert torch.allclose(cos[:, 0], expected[0][0], atol=1e-5)
    assert torch.allclose(sin[:, 0, 4:], expected[1][0, :, 4:], atol=1e-5)
    assert torch.equal(sin[:, 0, :4], -sin[:, 0, 4:])


@pytest.mark.parametrize("length", [20, 21], ids=["short factors", "long factors"])
def test_longrope_picks_its_factors_by_the_length_of_the_text(length: int) -> None:
    config = Phi3Config(**TINY, rope_parameters=LONGROPE, original_max_position_embeddings=20)
    expected = Phi3RotaryEmbedding(config)(torch.empty(0), torch.arange(length)[None])
    cos, _ = tables(config, CONTEXT, prompt=length)
    assert torch.allclose(cos[:length, 0], expected[0][0], atol=1e-5)


@pytest.mark.parametrize("prompt", [5, CONTEXT, 60], ids=["short", "the whole context", "past the context"])
def test_dynamic_scaling_stretches_with_every_token_as_in_transformers(prompt: int) -> None:
    config = LlamaConfig(**TINY, rope_parameters=rope("dynamic", factor=2.0))
    embedding, capacity = LlamaRotaryEmbedding(config), 2 * CONTEXT
    passes = [torch.arange(prompt), *torch.arange(prompt, capacity).split(1)]
    expected = torch.cat([embedding(torch.empty(0), rows[None])[0][0] for rows in passes])
    cos, _ = tables(config, capacity, prompt)
    assert torch.allclose(cos[:, 0], expected, atol=1e-5)


def test_the_tables_change_with_the_prompt_and_back() -> None:
    config = Phi3Config(**TINY, rope_parameters=LONGROPE, original_max_position_embeddings=20)
    rule = RotaryRule(config, CONTEXT, torch.float32, CPU)
    placement = Placement(*rule.tables(), 1, None, rule)
    kept, _ = placement.rotation(0, CONTEXT)
    short = kept.clone()
    placement.begin(30)
    assert torch.equal(kept, rule.tables(21)[0])  # in place: recorded passes read this memory
    placement.chain(30, 1)
    placement.begin(8)
    assert torch.equal(kept, short)


def test_a_text_that_outgrows_the_short_factors_is_refused() -> None:
    config = Phi3Config(**TINY, rope_parameters=LONGROPE, original_max_position_embeddings=20)
    rule = RotaryRule(config, CONTEXT, torch.float32, CPU)
    placement = Placement(*rule.tables(), 1, None, rule)
    placement.begin(8)
    placement.chain(19, 4)  # the draft may reach over the end: it is only drafted
    with pytest.raises(UserError, match="grows past 20 tokens") as caught:
        placement.chain(20, 1)
    assert "runtime.max_length=20" in caught.value.fix


def test_equal_factors_for_short_and_long_texts_never_change() -> None:
    factors = {**LONGROPE, "long_factor": LONGROPE["short_factor"]}
    config = Phi3Config(**TINY, rope_parameters=factors, original_max_position_embeddings=20)
    rule = RotaryRule(config, CONTEXT, torch.float32, CPU)
    assert rule.stage(CONTEXT) == 0
    rule.check(0, CONTEXT)


@pytest.mark.parametrize(
    "broken", [{"factor": None}, {"rope_theta": 0.0}], ids=["no factor", "theta of zero"]
)
def test_unusable_settings_are_named(broken: dict[str, float | None]) -> None:
    config = LlamaConfig(**TINY)
    rule: dict[str, Any] = {**RULES["linear"], **broken}
    config.rope_parameters = {key: value for key, value in rule.items() if value is not None}
    with pytest.raises(UserError, match=r"rotary embedding's settings \(linear\)"):
        tables(config, CONTEXT)


def test_scores_depend_on_the_distance_alone() -> None:
    cos, sin = tables(LlamaConfig(**TINY, rope_parameters=rope("default")), 32)
    query, key = torch.randn(2, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    turned = rotate(query.expand(32, 1, 8), cos, sin)[:, 0] @ rotate(key.expand(32, 1, 8), cos, sin)[:, 0].T
    for distance in (0, 1, 7):
        scores = turned.diagonal(-distance)
        assert torch.allclose(scores, scores[0].expand_as(scores), atol=1e-5)
    assert torch.allclose(turned[0, 0], (query * key).sum(), atol=1e-5)


def test_partial_rotation_leaves_the_other_channels() -> None:
    config = Phi3Config(**TINY, rope_parameters=rope("default", partial_rotary_factor=0.5))
    cos, sin = tables(config, 32)
    heads = torch.randn(32, 3, 8, generator=torch.Generator().manual_seed(0))
    turned = rotate(heads, cos, sin)
    assert cos.shape == (32, 1, 4)
    assert torch.equal(turned[..., 4:], heads[..., 4:])
    assert not torch.allclose(turned[1:, :, :4], heads[1:, :, :4], atol=0.1)


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    config = LlamaConfig(**TINY)
    config.rope_parameters = rope("spiral")
    with pytest.raises(UserError, match="rope_type 'spiral' is not supported") as caught:
        tables(config, 32)
    assert "llama3" in caught.value.fix
