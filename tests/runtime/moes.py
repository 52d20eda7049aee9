"""Miniature mixtures of experts of every family, for the tests of the decoder and of expert loading."""

from __future__ import annotations

from typing import Any

from transformers import MixtralConfig, OlmoeConfig, Qwen2MoeConfig, Qwen3MoeConfig

from tests.runtime.models import TINY

SPARSE: dict[str, Any] = {**TINY, "num_experts": 6, "num_experts_per_tok": 2}
MOES: dict[str, Any] = {
    "olmoe": OlmoeConfig(**SPARSE),
    "olmoe-normalised": OlmoeConfig(**{**SPARSE, "num_experts_per_tok": 3}, norm_topk_prob=True),
    "mixtral": MixtralConfig(**TINY, num_local_experts=4, num_experts_per_tok=2),
    "mixtral-window-7": MixtralConfig(**TINY, num_local_experts=4, num_experts_per_tok=1, sliding_window=7),
    "qwen2-shared-expert": Qwen2MoeConfig(
        **SPARSE, moe_intermediate_size=24, shared_expert_intermediate_size=20
    ),
    "qwen2-dense-layer": Qwen2MoeConfig(
        **SPARSE, moe_intermediate_size=24, shared_expert_intermediate_size=20, mlp_only_layers=[1]
    ),
    "qwen3": Qwen3MoeConfig(**SPARSE, moe_intermediate_size=24, head_dim=16, norm_topk_prob=True),
    "qwen3-every-second-layer": Qwen3MoeConfig(
        **SPARSE, moe_intermediate_size=24, head_dim=16, decoder_sparse_step=2, attention_bias=True
    ),
}
"""One configuration per case; the key says what is special about it."""
