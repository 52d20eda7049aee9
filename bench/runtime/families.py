"""Which architectures the decoder runs, and what sets them apart.

One decoder serves every family: a family is a handful of flags read from the checkpoint's ``config.json``. An
architecture or option that is not listed here is refused by name rather than run wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.errors import UserError


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Shape of a model and the flags of its family.

    Args:
        family: Architecture name as the checkpoint gives it.
        layers: Decoder layers (L).
        width: Hidden size (d).
        heads: Query heads (H).
        kv_heads: Key/value heads; fewer than `heads` under grouped-query attention.
        head_dim: Width of one head.
        mlp_width: Hidden width of the gated MLP.
        vocab: Rows of the embedding and of the LM head (V).
        norm_eps: Epsilon of every RMSNorm.
        context: Longest sequence the checkpoint declares.
        activation: ``silu`` or ``gelu_tanh``, on the gate.
        tied_head: The LM head is the embedding matrix.
        qk_norm: RMSNorm on each query and key head (Qwen3).
        norm_offset: Added to every norm weight (Gemma stores weight - 1).
        embed_scale: Factor on the embeddings (Gemma: sqrt(d)).
        window: Sliding-window length in tokens; None where every position is visible.
        fused: The checkpoint stores q/k/v and gate/up as one matrix each (Phi-3).
        qkv_bias: Query, key and value projections have biases.
        output_bias: The attention's output projection has a bias.
        mlp_bias: The MLP's projections have biases.
    """

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocab: int
    norm_eps: float
    context: int
    activation: str = "silu"
    tied_head: bool = False
    qk_norm: bool = False
    norm_offset: float = 0.0
    embed_scale: float = 1.0
    window: int | None = None
    fused: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False


FAMILIES: dict[str, str] = {
    "LlamaForCausalLM": "Llama 1/2/3, Vicuna, CodeLlama, LayerSkip, TinyLlama, SmolLM2",
    "MistralForCausalLM": "Mistral",
    "Qwen2ForCausalLM": "Qwen2, Qwen2.5",
    "Qwen3ForCausalLM": "Qwen3",
    "Phi3ForCausalLM": "Phi-3",
    "GemmaForCausalLM": "Gemma",
}
"""Supported architectures, each tested against transformers, with the models users know them by."""

FAMILY_OF = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma": "GemmaForCausalLM",
}
"""Architectures by ``model_type``."""

_OPTIONAL_BIAS = {"LlamaForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM"}
"""Families whose modeling code reads ``attention_bias``; the others ignore it."""

_WITHOUT_WINDOW = {"LlamaForCausalLM", "GemmaForCausalLM"}
"""Families whose layers ignore ``sliding_window``; but transformers' cache drops old entries by it."""

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu_tanh",  # Gemma's first configs say gelu; transformers uses the tanh form for them
}


def decoder_config(config: Any) -> DecoderConfig:  # noqa: ANN401
    """The decoder's view of a transformers configuration.

    Args:
        config: A ``transformers.PreTrainedConfig``.

    Raises:
        UserError: If the architecture or one of its options is not supported.
    """
    family = _family(config)
    _refuse_quantised(config)
    _require_consistent(config)
    attention_bias = family in _OPTIONAL_BIAS and bool(getattr(config, "attention_bias", False))
    return DecoderConfig(
        family=family,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        mlp_width=config.intermediate_size,
        vocab=config.vocab_size,
        norm_eps=config.rms_norm_eps,
        context=_context(config),
        activation=_activation(family, config),
        tied_head=bool(config.tie_word_embeddings),
        qk_norm=family == "Qwen3ForCausalLM",
        norm_offset=1.0 if family == "GemmaForCausalLM" else 0.0,
        embed_scale=config.hidden_size**0.5 if family == "GemmaForCausalLM" else 1.0,
        window=_window(family, config),
        fused=family == "Phi3ForCausalLM",
        qkv_bias=attention_bias or family == "Qwen2ForCausalLM",
        output_bias=attention_bias,
        mlp_bias=family == "LlamaForCausalLM" and bool(getattr(config, "mlp_bias", False)),
    )


def supported_families() -> str:
    """The supported architectures with the models they are known by, for messages."""
    return ", ".join(f"{name} ({models})" for name, models in FAMILIES.items())


def unsupported(what: str, by: str = "by the decoder") -> UserError:
    """The message about an architecture that the decoder does not run."""
    return UserError(f"{what} is not supported {by}", f"use a checkpoint of one of: {supported_families()}")


def _family(config: Any) -> str:  # noqa: ANN401
    """The architecture of this ``model_type``, as in transformers; ``architectures`` may be missing."""
    names = list(getattr(config, "architectures", None) or [])
    kind = getattr(config, "model_type", "unknown")
    family = FAMILY_OF.get(kind)
    if names and not any(name in FAMILIES or name == _without_head(family) for name in names):
        raise unsupported(f"architecture {', '.join(names)}")
    if family is None:
        raise unsupported(f"model_type {kind!r}")
    return family


def _without_head(family: str | None) -> str | None:
    """Name of the architecture without its LM head, as a base model is saved."""
    return None if family is None else family.replace("ForCausalLM", "Model")


def _refuse_quantised(config: Any) -> None:  # noqa: ANN401
    quantisation = getattr(config, "quantization_config", None)
    if quantisation is not None:
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
        raise UserError(
            f"the checkpoint is quantised ({method or 'unknown method'})",
            "use the checkpoint's fp32, bf16 or fp16 original",
        )


def _require_consistent(config: Any) -> None:  # noqa: ANN401
    """Refuse heads that do not divide what they share."""
    heads, width = config.num_attention_heads, config.hidden_size
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None)
    problem = None
    if head_dim is None and width % heads:
        problem = f"hidden_size {width} is no multiple of num_attention_heads {heads}"
    elif heads % kv_heads:
        problem = f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
    elif (head_dim or width // heads) % 2:
        problem = f"heads of width {head_dim or width // heads} cannot be rotated: it must be even"
    if problem is not None:
        raise UserError(
            f"the model's config is inconsistent: {problem}", "use the checkpoint's own config.json"
        )


def _context(config: Any) -> int:  # noqa: ANN401
    """Longest sequence. Linear and dynamic scaling extend the trained length, which stands in the config."""
    rope = getattr(config, "rope_parameters", None) or {}
    scale = rope.get("factor", 1.0) if rope.get("rope_type") in ("linear", "dynamic") else 1.0
    return int(config.max_position_embeddings * max(1.0, scale))


def _activation(family: str, config: Any) -> str:  # noqa: ANN401
    name = getattr(config, "hidden_activation", None) or config.hidden_act
    if name not in _ACTIVATIONS or (name == "gelu" and family != "GemmaForCausalLM"):
        raise UserError(
            f"activation {name!r} of {family} is not supported",
            f"supported: {', '.join(sorted(_ACTIVATIONS))}",
        )
    return _ACTIVATIONS[name]


def _window(family: str, config: Any) -> int | None:  # noqa: ANN401
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
