"""The transformers configuration of a GGUF file: what llama.cpp's metadata say under other names.

Differs from transformers' own reading of GGUF: the factors of Llama 3's and Phi-3's rotary embedding, Phi-3's
and Mistral's window, Qwen3's head width and the family Gemma are read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import (
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

from bench.errors import UserError
from bench.runtime.gguf import ROTARY, GgufFile, gguf_values
from bench.runtime.model_config import checked_config

_CONFIGS: Mapping[str, tuple[type[Any], str]] = {
    "llama": (LlamaConfig, "LlamaForCausalLM"),
    "qwen2": (Qwen2Config, "Qwen2ForCausalLM"),
    "qwen3": (Qwen3Config, "Qwen3ForCausalLM"),
    "phi3": (Phi3Config, "Phi3ForCausalLM"),
    "gemma": (GemmaConfig, "GemmaForCausalLM"),
    "gemma3": (Gemma3TextConfig, "Gemma3ForCausalLM"),
    "smollm3": (SmolLM3Config, "SmolLM3ForCausalLM"),
    "granite": (GraniteConfig, "GraniteForCausalLM"),
    "olmo2": (Olmo2Config, "Olmo2ForCausalLM"),
}
"""By ``general.architecture``: the transformers configuration, and the architecture's name there."""
_FIXED_OPTIONS: Mapping[str, dict[str, Any]] = {
    "gemma": {"hidden_act": "gelu_pytorch_tanh"},
    "smollm3": {"no_rope_layer_interval": 4},
}
"""Options that files do not hold, because llama.cpp has them as constants."""
_LAYERS_OF_GEMMA3_27B = 62
_SPECIAL = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


def gguf_config(file: GgufFile) -> Any:  # noqa: ANN401
    """The transformers configuration that the file's metadata describe.

    llama.cpp converts Mistral as ``llama``; it is taken for Mistral where the file tells a sliding window.

    Raises:
        UserError: If a value is missing or of another type, or the rotary rule is not supported.
    """
    make, name = _CONFIGS[file.architecture]
    try:
        options = _family_options(file)
        fields = _fields(file) | options
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{file.path}: its metadata cannot be used: {error}",
            "convert the model again with llama.cpp's convert_hf_to_gguf.py",
        ) from error
    if file.architecture == "llama" and options["sliding_window"] is not None:
        make, name = MistralConfig, "MistralForCausalLM"
    return checked_config(lambda known: make(architectures=[name], **known), fields, str(file.path))


def _fields(file: GgufFile) -> dict[str, Any]:
    """Fields of the configuration that all families have."""
    heads, width = file.require("attention.head_count"), file.require("embedding_length")
    head_dim = file.get("attention.key_length", width // max(1, heads))
    return {
        "vocab_size": int(file.tensors["token_embd.weight"].shape[-1]),
        "hidden_size": width,
        "intermediate_size": file.require("feed_forward_length"),
        "num_hidden_layers": file.require("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": file.require("context_length"),
        "rms_norm_eps": file.require("attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope_parameters(file, head_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors,
        **{key: file.metadata.get(f"tokenizer.ggml.{token}_token_id") for key, token in _SPECIAL.items()},
    }


def _family_options(file: GgufFile) -> dict[str, Any]:
    """Options that only some families have."""
    window = file.get("attention.sliding_window") or None  # 0 stands for none
    if file.architecture == "llama":
        return {"sliding_window": window}
    if file.architecture == "phi3":
        return {"sliding_window": window, "original_max_position_embeddings": _original_context(file)}
    if file.architecture == "gemma3":
        return _gemma3_options(file)
    if file.architecture == "granite":
        return _granite_options(file)
    return _FIXED_OPTIONS.get(file.architecture, {})


def _gemma3_options(file: GgufFile) -> dict[str, Any]:
    """Window, pattern and the two rotary embeddings; files leave out what llama.cpp has as constants."""
    width, heads = file.require("embedding_length"), file.require("attention.head_count")
    head_dim = file.require("attention.key_length")
    rope = _rope_parameters(file, head_dim)
    is_27b = file.require("block_count") == _LAYERS_OF_GEMMA3_27B
    return {
        "sliding_window": file.require("attention.sliding_window"),
        "sliding_window_pattern": file.get("attention.sliding_window_pattern", 6),
        "query_pre_attn_scalar": width // heads if is_27b else head_dim,
        "rope_parameters": None,
        "rope_theta": rope.pop("rope_theta"),
        "rope_local_base_freq": file.get("rope.freq_base_swa", 10000.0),
        "rope_scaling": rope,
    }


def _granite_options(file: GgufFile) -> dict[str, Any]:
    """Its four factors; llama.cpp's converter leaves out those that are zero."""
    width, heads = file.require("embedding_length"), file.require("attention.head_count")
    return {
        "embedding_multiplier": file.get("embedding_scale", 1.0),
        "residual_multiplier": file.get("residual_scale", 1.0),
        "attention_multiplier": file.get("attention.scale", (width // max(1, heads)) ** -0.5),
        "logits_scaling": file.get("logit_scale", 1.0),
    }


def _original_context(file: GgufFile) -> int:
    """Longest sequence before the rotary embedding was rescaled."""
    return int(file.get("rope.scaling.original_context_length", file.require("context_length")))


def _rope_parameters(file: GgufFile, head_dim: int) -> dict[str, Any]:
    """The rotary embedding's rule, as transformers writes it.

    Llama 3's rule is stored as a factor for each frequency; the rule ``longrope`` with the same factors for
    short and long sequences computes the same angles.
    """
    base: dict[str, Any] = {"rope_theta": file.get("rope.freq_base", 10000.0)}
    rotated = file.get("rope.dimension_count", head_dim)
    if rotated != head_dim:
        base["partial_rotary_factor"] = rotated / head_dim
    original = _original_context(file)
    kind = file.get("rope.scaling.type", "none")
    factor = file.get("rope.scaling.factor", file.get("rope.scale_linear"))
    if "rope_factors_long.weight" in file.tensors:
        short, long = (gguf_values(file.tensors[name]).tolist() for name in ROTARY[1:])
        attention = file.get("rope.scaling.attn_factor")
        return _longrope(base, short, long, original, attention)
    if "rope_freqs.weight" in file.tensors:
        factors = gguf_values(file.tensors[ROTARY[0]]).tolist()
        return _longrope(base, factors, factors, original, 1.0)
    if kind == "linear" or (kind == "none" and factor not in (None, 0, 1)):
        return base | {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        betas = {f"beta_{end}": file.get(f"rope.scaling.yarn_beta_{end}") for end in ("fast", "slow")}
        lengths = {"factor": factor, "original_max_position_embeddings": original}
        return base | {"rope_type": "yarn"} | lengths | betas
    if kind == "none":
        return base | {"rope_type": "default"}
    raise UserError(
        f"{file.path}: the rotary embedding's scaling {kind!r} is not supported",
        "use a model with none, or one of: linear, yarn, longrope",
    )


def _longrope(
    base: dict[str, Any], short: list[float], long: list[float], original: int, attention: float | None
) -> dict[str, Any]:
    factors = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    return base | factors | {"original_max_position_embeddings": original, "attention_factor": attention}
