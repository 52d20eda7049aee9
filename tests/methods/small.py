"""Small random models and a clock that tells no time, for tests of methods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    Olmo2Config,
    OlmoeConfig,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bench.records.model import Generation
from bench.runtime.decoder import Decoder, Mlp, Tier
from bench.runtime.linear import Linear
from bench.runtime.loading import RuntimeOptions, build_decoder
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import Budget, Method, NoClock
from tests.runtime.models import AUTO, GRANITE

CPU = torch.device("cpu")
SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
    "gemma": GemmaConfig(**SHAPE),
}
UNLIKE_LLAMA: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "granite": (GraniteConfig, GRANITE),
    "olmo2": (Olmo2Config, {}),
    "smollm3": (SmolLM3Config, {"no_rope_layer_interval": 2}),
    "gemma3": (Gemma3TextConfig, {"sliding_window": 6, "sliding_window_pattern": 3}),
}
"""Families whose layers do more than Llama's, with their own keys."""
SPARSE = "olmoe"
"""A family with mixtures of experts, for methods that need some."""
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}


def config_of(family: str, **changes: Any) -> Any:
    """The configuration of a small model, with some keys changed."""
    if family == SPARSE:
        shape = {key: value for key, value in SHAPE.items() if key != "head_dim"}
        config: Any = OlmoeConfig(**{**shape, **_EXPERTS, **changes})
    else:
        make, own = UNLIKE_LLAMA.get(family) or (type(FAMILIES[family]), {})
        config = make(**{**SHAPE, **own, **changes})
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
    return config


def random_decoder(
    family: str = "llama",
    seed: int = 0,
    capacity: int = 256,
    tier: Tier = AUTO,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Decoder:
    """A decoder with random weights; compiled passes take a tenth of the static tier's time.

    Args:
        family: One of `FAMILIES` or `UNLIKE_LLAMA`, or `SPARSE`, which compiled passes do not run.
        seed: Of the weights.
        capacity: Slots of the cache.
        tier: How passes run.
        dtype: Of its weights.
        changes: Keys of the configuration that differ from `SHAPE`.
    """
    key = (family, seed, repr(sorted(changes.items())))
    if key not in _models:
        torch.manual_seed(seed)
        _models[key] = AutoModelForCausalLM.from_config(config_of(family, **changes)), torch.get_rng_state()
    model, state = _models[key]
    torch.set_rng_state(state)  # as after making the model, so that what follows draws the same numbers
    tensors = {name: value.to(dtype, copy=True) for name, value in model.state_dict().items()}
    tier = "static" if family == SPARSE else tier
    return build_decoder(model.config, tensors, RuntimeOptions(CPU, dtype, capacity, tier))


_models: dict[tuple[str, int, str], tuple[Any, Tensor]] = {}
"""Random models that are made once in a process, and the state of torch's generator afterwards."""


def scale_writers(decoder: Decoder, first: int, share: float) -> None:
    """Let layers from `first` on change their rows `share` times as much; not for compiled passes."""
    for index, layer in enumerate(decoder.layers[first:], first):
        assert isinstance(layer.mlp, Mlp)
        attention = replace(layer.attention, o=_scaled(layer.attention.o, share))
        decoder.layers[index] = replace(
            layer, attention=attention, mlp=replace(layer.mlp, down=_scaled(layer.mlp.down, share))
        )


def _scaled(linear: Linear, share: float) -> Linear:
    return Linear(linear.weight * share, None if linear.bias is None else linear.bias * share)


def prompt(length: int = 12, seed: int = 3, vocabulary: int = SHAPE["vocab_size"]) -> Tensor:
    """Random token ids, shape [length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (length,), generator=generator)


def run(
    method: Method,
    ids: Tensor,
    *,
    new: int = 40,
    eos: frozenset[int] = frozenset(),
    sampling: Sampling | None = None,
    seed: int = 0,
) -> Generation:
    """One generation, cut as the harness cuts it."""
    sampler = Sampler(sampling or Sampling(), CPU, seed)
    with torch.inference_mode():
        return method.generate(ids, Budget(new, eos), sampler, NoClock()).cut(new, eos)
