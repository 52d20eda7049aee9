"""What sets a family apart, as fields of `DecoderConfig` read from its transformers configuration.

Mixtures of experts are described by the same fields in every family, so `moe_config` names none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.errors import UserError
from bench.runtime.families import Alternate, MoeConfig

_WITHOUT_WINDOW = {
    "LlamaForCausalLM",
    "GemmaForCausalLM",
    "GraniteForCausalLM",
    "Olmo2ForCausalLM",
    "OlmoeForCausalLM",
}
"""Families whose layers ignore ``sliding_window``; but transformers' cache drops old entries by it."""

_OPTIONAL_BIAS = {
    "LlamaForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "GemmaForCausalLM",
    "Gemma3ForCausalLM",
    "GraniteForCausalLM",
    "Olmo2ForCausalLM",
    "OlmoeForCausalLM",
    "SmolLM3ForCausalLM",
}
"""Families whose modeling code reads ``attention_bias``; the others ignore it."""

_OPTIONAL_MLP_BIAS = {"LlamaForCausalLM", "GraniteForCausalLM", "SmolLM3ForCausalLM"}
"""Likewise ``mlp_bias``."""
_IS_SLIDING = {"full_attention": False, "sliding_attention": True}
_FIX = "use the checkpoint's own config.json, as its authors published it"
_MOST_EXPERTS, _MOST_WIDTH = 1 << 14, 1 << 22
"""Far above any model's."""


def no_options(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """A family that needs nothing beyond what all have."""
    return {}


def _qwen3(config: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"qk_norm": True}


def _olmoe(config: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"qk_norm": True, "qk_norm_whole": True}


def _phi3(config: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"fused": True}


def _gemma(config: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"norm_offset": 1.0, "embed_scale": config.hidden_size**0.5}


def _gemma3(config: Any) -> dict[str, Any]:  # noqa: ANN401
    for name in ("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention"):
        if getattr(config, name, None):
            raise UserError(f"{name} of Gemma3ForCausalLM is not supported", "use a checkpoint without it")
    scale = float(config.query_pre_attn_scalar) ** -0.5
    return _gemma(config) | {"post_norm": True, "qk_norm": True, "score_scale": scale}


def _granite(config: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "embed_scale": float(config.embedding_multiplier),
        "score_scale": float(config.attention_multiplier),
        "residual_scale": float(config.residual_multiplier),
        "logit_scale": 1.0 / config.logits_scaling,
    }


def _olmo2(config: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"pre_norm": False, "post_norm": True, "qk_norm": True, "qk_norm_whole": True}


FAMILY_OPTIONS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "Qwen3ForCausalLM": _qwen3,
    "Qwen3MoeForCausalLM": _qwen3,
    "OlmoeForCausalLM": _olmoe,
    "Phi3ForCausalLM": _phi3,
    "GemmaForCausalLM": _gemma,
    "Gemma3ForCausalLM": _gemma3,
    "GraniteForCausalLM": _granite,
    "Olmo2ForCausalLM": _olmo2,
}
"""By architecture; one that is missing has `no_options`."""


def biases(family: str, config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Which projections of the model have biases."""
    attention = family in _OPTIONAL_BIAS and bool(getattr(config, "attention_bias", False))
    return {
        "qkv_bias": attention or family == "Qwen2ForCausalLM" or bool(getattr(config, "qkv_bias", False)),
        "output_bias": attention,
        "mlp_bias": family in _OPTIONAL_MLP_BIAS and bool(getattr(config, "mlp_bias", False)),
    }


def layer_placements(family: str, config: Any) -> dict[str, Any]:  # noqa: ANN401
    """The window of the model, and the layers with another one or without rotation.

    Where layers differ, the main kind is the one that drafters share: rotated and, if there is one, without a
    window.

    Raises:
        UserError: If a layer is of an unknown type, or there are more than two kinds.
    """
    rotating = getattr(config, "no_rope_layers", None) if family == "SmolLM3ForCausalLM" else None
    rotating = rotating or [1] * config.num_hidden_layers
    windows = _windows(family, config)
    if len(rotating) < len(windows):
        raise UserError(
            f"no_rope_layers names {len(rotating)} layers of {len(windows)}",
            "use the checkpoint's own config.json, as its authors published it",
        )
    kinds = [(not rotates, window) for rotates, window in zip(rotating, windows, strict=False)]
    main, *others = sorted(set(kinds), key=lambda kind: (kind[0], kind[1] is not None))
    if len(others) > 1:
        raise UserError(
            f"layers of {len(others) + 1} kinds, by window and rotation, are not supported",
            "use a checkpoint whose layers are of at most two kinds",
        )
    if main[0]:  # no layer is rotated
        return {"window": main[1], "alternate": Alternate(frozenset(range(len(kinds))), main[1], False)}
    if not others:
        return {"window": main[1]}
    (is_still, window), *_ = others
    layers = frozenset(index for index, kind in enumerate(kinds) if kind != main)
    return {"window": main[1], "alternate": Alternate(layers, window, not is_still)}


def _windows(family: str, config: Any) -> list[int | None]:  # noqa: ANN401
    """Sliding window of each layer in tokens; None where it sees everything."""
    count, window = config.num_hidden_layers, getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return [None] * count
    if family in _WITHOUT_WINDOW:
        if window < config.max_position_embeddings:
            raise UserError(
                f"{family} has no sliding window, and its config sets one of {window} tokens",
                "remove sliding_window from config.json, or convert the model to Mistral",
            )
        return [None] * count
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * count
    if len(types) != count or set(types) - set(_IS_SLIDING):
        raise UserError(
            f"layers of the attention types {sorted(set(types))} are not supported, or not {count} of them",
            f"use a checkpoint whose layers are of: {', '.join(_IS_SLIDING)}",
        )
    return [int(window) if _IS_SLIDING[kind] else None for kind in types]


def moe_config(config: Any) -> MoeConfig | None:  # noqa: ANN401
    """The shape of the mixtures of experts in a transformers configuration; None for a model without them.

    Raises:
        UserError: If a number is one that no model has, or an option is not supported.
    """
    top_k = getattr(config, "num_experts_per_tok", None)
    if top_k is None:
        return None
    if getattr(config, "clip_qkv", None) is not None:
        raise UserError(
            "clip_qkv is not supported by the decoder", "use a checkpoint without it, such as OLMoE"
        )
    experts = _whole("num_experts", config.num_experts, 1, _MOST_EXPERTS)
    step = _whole("decoder_sparse_step", getattr(config, "decoder_sparse_step", 1), 1, _MOST_EXPERTS)
    expert_width = getattr(config, "moe_intermediate_size", config.intermediate_size)
    shared_width = getattr(config, "shared_expert_intermediate_size", 0)
    dense = set(getattr(config, "mlp_only_layers", None) or ())
    dense |= {layer for layer in range(config.num_hidden_layers) if (layer + 1) % step}
    return MoeConfig(
        experts=experts,
        top_k=_whole("num_experts_per_tok", top_k, 1, experts),
        expert_width=_whole("the width of an expert", expert_width, 1, _MOST_WIDTH),
        is_normalised=bool(getattr(config, "norm_topk_prob", True)),  # Mixtral always does, and does not say
        shared_width=_whole("shared_expert_intermediate_size", shared_width, 0, _MOST_WIDTH),
        dense_layers=frozenset(dense),
    )


def _whole(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(
            f"the model's config is inconsistent: {name} is {value!r}, not in {least}..{most}", _FIX
        )
    return value
