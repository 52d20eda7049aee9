"""Rotary tables: a rotation by position, scaled by the checkpoint's own rule.

Shapes: S positions, D head width.
"""

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from bench.errors import UserError
from bench.runtime.rows import rotary_tables, rotate
from tests.runtime.models import CONTEXT, CPU, LLAMA3, LONGROPE, TINY, rope

RULES = {
    "default": rope("default"),
    "linear": rope("linear", factor=2.0),
    "dynamic": rope("dynamic", factor=2.0),
    "llama3": LLAMA3,
    "yarn": rope("yarn", factor=4.0, original_max_position_embeddings=12),
}


@pytest.mark.parametrize("capacity", [CONTEXT, 2 * CONTEXT], ids=["within the context", "past the context"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_tables_equal_those_of_transformers_at_full_length(rule: dict[str, float], capacity: int) -> None:
    config = LlamaConfig(**TINY, rope_parameters=rule)
    expected = LlamaRotaryEmbedding(config)(torch.empty(0), torch.arange(capacity)[None])
    cos, sin = rotary_tables(config, 8, capacity, torch.float32, CPU)
    assert torch.allclose(cos[:, 0], expected[0][0], atol=1e-5)
    assert torch.allclose(sin[:, 0, 4:], expected[1][0, :, 4:], atol=1e-5)
    assert torch.equal(sin[:, 0, :4], -sin[:, 0, 4:])


@pytest.mark.parametrize("capacity", [20, 40], ids=["short factors", "long factors"])
def test_longrope_picks_its_factors_by_the_capacity(capacity: int) -> None:
    config = Phi3Config(**TINY, rope_parameters=LONGROPE, original_max_position_embeddings=20)
    expected = Phi3RotaryEmbedding(config)(torch.empty(0), torch.arange(capacity)[None])
    cos, _ = rotary_tables(config, 8, capacity, torch.float32, CPU)
    assert torch.allclose(cos[:, 0], expected[0][0], atol=1e-5)


def test_scores_depend_on_the_distance_alone() -> None:
    cos, sin = rotary_tables(LlamaConfig(**TINY, rope_parameters=rope("default")), 8, 32, torch.float32, CPU)
    query, key = torch.randn(2, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    turned = rotate(query.expand(32, 1, 8), cos, sin)[:, 0] @ rotate(key.expand(32, 1, 8), cos, sin)[:, 0].T
    for distance in (0, 1, 7):
        scores = turned.diagonal(-distance)
        assert torch.allclose(scores, scores[0].expand_as(scores), atol=1e-5)
    assert torch.allclose(turned[0, 0], (query * key).sum(), atol=1e-5)


def test_partial_rotation_leaves_the_other_channels() -> None:
    config = Phi3Config(**TINY, rope_parameters=rope("default", partial_rotary_factor=0.5))
    cos, sin = rotary_tables(config, 8, 32, torch.float32, CPU)
    heads = torch.randn(32, 3, 8, generator=torch.Generator().manual_seed(0))
    turned = rotate(heads, cos, sin)
    assert cos.shape == (32, 1, 4)
    assert torch.equal(turned[..., 4:], heads[..., 4:])
    assert not torch.allclose(turned[1:, :, :4], heads[1:, :, :4], atol=0.1)


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    config = LlamaConfig(**TINY)
    config.rope_parameters = rope("spiral")
    with pytest.raises(UserError, match="rope_type 'spiral' is not supported") as caught:
        rotary_tables(config, 8, 32, torch.float32, CPU)
    assert "llama3" in caught.value.fix
