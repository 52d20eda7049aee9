"""What sets a family apart, as fields of `DecoderConfig` read from its transformers configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.errors import UserError

_WITHOUT_WINDOW = {
    "LlamaForCausalLM",
    "GemmaForCausalLM",
    "GraniteForCausalLM",
    "Olmo2ForCausalLM",
    "OlmoeForCausalLM",
}
"""Families whose layers ignore ``sliding_window``; but transformers' cache drops old entries by it."""


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
    "GraniteForCausalLM": _granite,
    "Olmo2ForCausalLM": _olmo2,
}
"""By architecture; one that is missing has `no_options`."""


def window_of(family: str, config: Any) -> int | None:  # noqa: ANN401
    """Sliding window in tokens if all layers slide; mixed layer types are refused."""
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return None
    if family in _WITHOUT_WINDOW:
        if window < config.max_position_embeddings:
            raise UserError(
                f"{family} has no sliding window, and its config sets one of {window} tokens",
                "remove sliding_window from config.json, or convert the model to Mistral",
            )
        return None
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    if kinds == {"full_attention"}:
        return None
    if len(kinds) > 1:
        raise UserError(
            f"layers of different attention types {sorted(kinds)} are not supported",
            "use a checkpoint whose layers all attend alike (for Qwen2: use_sliding_window false)",
        )
    return int(window)
