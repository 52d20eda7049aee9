"""Tiny random models of every family, the same weights on both sides: transformers as the oracle, and our
decoder.

Every parameter is random, norms and biases too: a default of 1 or 0 would hide a weight that is never
applied.

Shapes: T tokens, V vocabulary.
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from bench.runtime.decoder import Decoder, Tier
from bench.runtime.loading import RuntimeOptions, load_decoder
from bench.runtime.tiers.compiled.library import Missing, library

CPU = torch.device("cpu")
CONTEXT = 48
AUTO: Tier = "static" if isinstance(library(), Missing) else "compiled"
"""What ``runtime.tier=auto`` takes on this machine's CPU."""
needs_compiler = pytest.mark.skipif(AUTO != "compiled", reason="there is no C compiler")
TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def rope(kind: str, **options: Any) -> dict[str, Any]:
    """Rotary parameters of one scaling rule; theta is small so that few positions already differ."""
    return {"rope_type": kind, "rope_theta": 100.0, **options}


LLAMA3 = rope(
    "llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
LONGROPE = rope(
    "longrope", short_factor=[1.0, 1.1, 1.3, 2.0], long_factor=[2.0, 3.0, 5.0, 9.0], partial_rotary_factor=1.0
)
GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.4,
    "logits_scaling": 5.0,
}
GEMMA3: dict[str, Any] = {
    **TINY,
    "tie_word_embeddings": True,
    "head_dim": 16,
    "sliding_window": 5,
    "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 24,
    "rope_theta": 500.0,
    "rope_local_base_freq": 20.0,
}

CONFIGS: dict[str, Any] = {
    "llama-mha": LlamaConfig(**{**TINY, "num_key_value_heads": 4}),
    "llama-gqa-llama3-rope": LlamaConfig(**TINY, rope_parameters=LLAMA3),
    "llama-linear-rope": LlamaConfig(**TINY, rope_parameters=rope("linear", factor=2.0)),
    "llama-dynamic-rope": LlamaConfig(**TINY, rope_parameters=rope("dynamic", factor=2.0)),
    "llama-yarn-rope": LlamaConfig(
        **TINY, rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=12)
    ),
    "llama-tied-one-kv-head": LlamaConfig(**{**TINY, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama-all-biases": LlamaConfig(**TINY, attention_bias=True, mlp_bias=True),
    "mistral-window-7": MistralConfig(**TINY, sliding_window=7),
    "mistral-no-window": MistralConfig(**TINY, sliding_window=None, head_dim=12),
    "qwen2-biases": Qwen2Config(**TINY),
    "qwen2-mha-window-9": Qwen2Config(
        **{**TINY, "num_key_value_heads": 4}, use_sliding_window=True, sliding_window=9, max_window_layers=0
    ),
    "qwen3-qk-norm": Qwen3Config(**TINY, head_dim=16),
    "qwen3-attention-bias": Qwen3Config(**TINY, head_dim=16, attention_bias=True),
    "phi3-fused": Phi3Config(**TINY),
    "phi3-partial-rotary": Phi3Config(**TINY, rope_parameters=rope("default", partial_rotary_factor=0.5)),
    "phi3-longrope-short": Phi3Config(
        **TINY, rope_parameters=LONGROPE, original_max_position_embeddings=CONTEXT, sliding_window=11
    ),
    "gemma-tied-wide-heads": GemmaConfig(**{**TINY, "tie_word_embeddings": True}, head_dim=16),
    "granite-factors": GraniteConfig(**TINY, **GRANITE),
    "granite-tied-biases": GraniteConfig(
        **{**TINY, "tie_word_embeddings": True}, **GRANITE, attention_bias=True, mlp_bias=True
    ),
    "olmo2-norms-after": Olmo2Config(**TINY),
    "olmo2-mha-bias-linear-rope": Olmo2Config(
        **{**TINY, "num_key_value_heads": 4}, attention_bias=True, rope_parameters=rope("linear", factor=2.0)
    ),
    "smollm3-one-layer-still": SmolLM3Config(**{**TINY, "no_rope_layers": [1, 0, 1]}),
    "smollm3-still-layers-in-a-window": SmolLM3Config(
        **{**TINY, "no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 6},
        attention_bias=True,
        mlp_bias=True,
    ),
    "qwen3-window-in-the-last-layers": Qwen3Config(
        **TINY, head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "gemma3-local-and-global": Gemma3TextConfig(**GEMMA3),
    "gemma3-linear-rope-biases": Gemma3TextConfig(
        **{**GEMMA3, "sliding_window_pattern": 3},
        rope_scaling={"rope_type": "linear", "factor": 4.0},
        attention_bias=True,
    ),
    "gemma3-all-layers-local": Gemma3TextConfig(
        **{**GEMMA3, "layer_types": ["sliding_attention"] * 3, "tie_word_embeddings": False}
    ),
    "gemma-mqa-untied": GemmaConfig(
        **{**TINY, "num_key_value_heads": 1}, head_dim=16, hidden_act="gelu_pytorch_tanh"
    ),
}
"""One configuration per case of the family table; the key says what is special about it."""


@dataclass(frozen=True)
class Pair:
    """One model twice."""

    oracle: Any  # a transformers model
    decoder: Decoder

    def logits(self, ids: list[int]) -> Tensor:
        """The oracle's logits of a fresh forward over `ids`, shape [T, V]."""
        return _known_logits(self.oracle, tuple(ids))


@cache
def _known_logits(oracle: Any, ids: tuple[int, ...]) -> Tensor:
    """Computed once: many tests ask for the same ids."""
    return oracle_logits(oracle, list(ids))


def oracle_logits(oracle: Any, ids: list[int], **options: Any) -> Tensor:
    """Logits [T, V] of one forward without a cache."""
    with torch.no_grad():
        out: Tensor = oracle(torch.tensor([ids]), use_cache=False, **options).logits[0]
    return out


def tiny_model(config: Any, seed: int = 0) -> Any:
    """A transformers model whose every parameter is random."""
    model = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation="eager").eval()  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and not config.model_type.startswith("gemma") else 0.0
            parameter.normal_(centre, 0.15, generator=generator)
    return model


def options(
    dtype: torch.dtype = torch.float32, max_length: int = CONTEXT, tier: Tier = "static"
) -> RuntimeOptions:
    """A CPU layout of a tiny model."""
    return RuntimeOptions(CPU, dtype, max_length, tier)


def tiny_pair(config: Any, folder: Path, tier: Tier = "static", oracle: Any = None) -> Pair:
    """Save a tiny model, or the given one, in `folder` as a user would, and load it into our decoder."""
    model = tiny_model(config) if oracle is None else oracle
    model.save_pretrained(folder)
    return Pair(model, load_decoder(folder, options(tier=tier)))


def tokens(count: int, seed: int = 1) -> list[int]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(TINY["vocab_size"], (count,), generator=generator).tolist()
