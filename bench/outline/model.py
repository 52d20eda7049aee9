"""The shape of a model from its ``config.json`` or the header of its GGUF file, and what follows from it.

Only what a file states is used. Transformers fills gaps with defaults of each family; a gap that it would
fill is `Unclear` here, apart from the few that have one answer in every family concerned.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.outline import Unclear
from bench.outline.gguf_file import GgufHeader, read_gguf_header
from bench.runtime.checkpoint_files import CONFIG_FILE, is_gguf, read_json
from bench.runtime.families import FAMILY_OF, DecoderConfig

_SIZES = {
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
    "vocab_size": "vocab",
    "max_position_embeddings": "context",
}
"""Sizes by their names in ``config.json`` and in `DecoderConfig`."""
_GGUF_SIZES = {
    "block_count": "layers",
    "embedding_length": "width",
    "attention.head_count": "heads",
    "feed_forward_length": "mlp_width",
    "context_length": "context",
}
_ONE_KV_HEAD_PER_HEAD = ("LlamaForCausalLM",)
_HEADS_SHARE_THE_WIDTH = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Phi3ForCausalLM")
_UNTIED = (*_HEADS_SHARE_THE_WIDTH, "Qwen3ForCausalLM")
_ANY_WINDOW = ("MistralForCausalLM", "Phi3ForCausalLM")
_OPTIONAL_BIAS = ("LlamaForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM")
_GGUF_FAMILIES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma": "GemmaForCausalLM",
}
_COUNTED = (*_GGUF_FAMILIES.values(), "MistralForCausalLM")
"""Families whose weights `pass_parameters` counts: dense, with plain attention."""
_ROPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
_LONGER = ("linear", "dynamic")
"""Rotary rules that extend the trained length, which stands in the config."""


@cache
def model_shape(folder: Path) -> DecoderConfig:
    """The shape of a checkpoint.

    Raises:
        Unclear: If the files leave a part of it to transformers, or something is wrong with them.
    """
    try:
        if is_gguf(folder):
            return _gguf_shape(read_gguf_header(folder))
        return stated_shape(read_json(folder / CONFIG_FILE))
    except UserError as error:
        raise Unclear(error.what) from error


def stated_shape(fields: Mapping[str, Any]) -> DecoderConfig:
    """The shape that fields state, by the names of ``config.json``; of a dense family alone.

    Raises:
        Unclear: If they leave a part of it to transformers, or have a value that it might refuse.
    """
    family = FAMILY_OF.get(str(fields.get("model_type")))
    if family not in _COUNTED or fields.get("quantization_config") is not None:
        raise Unclear("an architecture that only transformers can judge")
    _require_plain(family, fields)
    sizes = {own: _size(fields, name) for name, own in _SIZES.items()}
    kv_heads = sizes["heads"] if family in _ONE_KV_HEAD_PER_HEAD else None
    head_dim = sizes["width"] // sizes["heads"] if family in _HEADS_SHARE_THE_WIDTH else None
    tied = fields.get("tie_word_embeddings", False if family in _UNTIED else None)
    if not isinstance(tied, bool):
        raise Unclear("tie_word_embeddings is not stated")
    bias = family in _OPTIONAL_BIAS and bool(fields.get("attention_bias", False))
    shape = DecoderConfig(
        family=family,
        layers=sizes["layers"],
        width=sizes["width"],
        heads=sizes["heads"],
        mlp_width=sizes["mlp_width"],
        vocab=sizes["vocab"],
        context=int(sizes["context"] * _longer(fields)),
        kv_heads=_size(fields, "num_key_value_heads", kv_heads),
        head_dim=_size(fields, "head_dim", head_dim),
        norm_eps=0.0,  # changes no size
        tied_head=tied,
        qkv_bias=bias or family == "Qwen2ForCausalLM",
        output_bias=bias,
        mlp_bias=family == "LlamaForCausalLM" and bool(fields.get("mlp_bias", False)),
    )
    if shape.heads % shape.kv_heads or shape.head_dim % 2 or shape.width % shape.heads:
        raise Unclear("heads that do not divide what they share")
    return shape


def _require_plain(family: str, fields: Mapping[str, Any]) -> None:
    """Leave to transformers what it, or the decoder, may refuse."""
    activation = fields.get("hidden_activation") or fields.get("hidden_act")
    if family != "GemmaForCausalLM" and activation not in ("silu", "swish"):
        raise Unclear(f"activation {activation!r}")
    has_window = fields.get("sliding_window") is not None and fields.get("use_sliding_window") is not False
    if (has_window and family not in _ANY_WINDOW) or len(set(fields.get("layer_types") or ())) > 1:
        raise Unclear("sliding windows that not every layer or family has")
    if "auto_map" in fields or not isinstance(fields.get("architectures"), list):
        raise Unclear("no plain list of architectures")


def _longer(fields: Mapping[str, Any]) -> float:
    """How many times the stated length the rotary embedding allows."""
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(rope, dict) or (fields.get("rope_parameters") and fields.get("rope_scaling")):
        raise Unclear("a rotary rule that is not plain")
    kind, factor = rope.get("rope_type", rope.get("type", "default")), rope.get("factor", 1.0)
    if kind not in _ROPES or not isinstance(factor, int | float):
        raise Unclear(f"rotary rule {kind!r}")
    return max(1.0, factor) if kind in _LONGER else 1.0


def _size(fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise Unclear(f"{name} is not stated")
    return value


def _gguf_shape(header: GgufHeader) -> DecoderConfig:
    known, kind = header.metadata, str(header.metadata.get("general.architecture"))
    family, embedding = _GGUF_FAMILIES.get(kind), header.tensors.get("token_embd.weight")
    rope = known.get(f"{kind}.rope.scaling.type", "none")
    if family is None or embedding is None or rope != "none" or known.get(f"{kind}.expert_count"):
        raise Unclear("a GGUF file that the library must read")
    if known.get(f"{kind}.rope.scale_linear") or known.get(f"{kind}.rope.scaling.factor"):
        raise Unclear("a rotary rule that is not plain")
    sizes = {own: _size(known, f"{kind}.{name}") for name, own in _GGUF_SIZES.items()}
    head_dim = sizes["width"] // sizes["heads"]
    has_bias = "blk.0.attn_q.bias" in header.tensors
    return DecoderConfig(
        family=family,
        layers=sizes["layers"],
        width=sizes["width"],
        heads=sizes["heads"],
        mlp_width=sizes["mlp_width"],
        context=sizes["context"],
        vocab=embedding.shape[-1],
        kv_heads=_size(known, f"{kind}.attention.head_count_kv", sizes["heads"]),
        head_dim=_size(known, f"{kind}.attention.key_length", head_dim),
        norm_eps=0.0,
        tied_head="output.weight" not in header.tensors,
        qkv_bias=(family in _OPTIONAL_BIAS and has_bias) or family == "Qwen2ForCausalLM",
        output_bias=family in _OPTIONAL_BIAS and has_bias,
        mlp_bias=family == "LlamaForCausalLM" and "blk.0.ffn_gate.bias" in header.tensors,
    )


def pass_parameters(shape: DecoderConfig) -> int:
    """Weights that a pass reads: all but the norms, and the embedding, of which it reads a row per token."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = (2 * queries + 2 * keys) * shape.width + (queries + 2 * keys) * shape.qkv_bias
    mlp = 3 * shape.width * shape.mlp_width + (2 * shape.mlp_width + shape.width) * shape.mlp_bias
    layer = attention + shape.width * shape.output_bias + mlp
    return shape.vocab * shape.width + shape.layers * layer


def parameters(shape: DecoderConfig) -> int:
    """Weights of the model without its norms; a tied head counts once."""
    return pass_parameters(shape) + (0 if shape.tied_head else shape.vocab * shape.width)


def token_numbers(shape: DecoderConfig) -> int:
    """Numbers that the keys and values of one token are."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim
