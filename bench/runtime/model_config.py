"""Reads a checkpoint's ``config.json``: checked, read by transformers, and turned into a shape.

The values are checked before transformers sees them, because it would build lists of a billion layers, and
because its messages about a wrong type name neither file nor fix. Code in a checkpoint is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING

from bench.errors import UserError
from bench.runtime.checkpoint_files import CONFIG_FILE, no_checkpoint, read_json, require_whole_model
from bench.runtime.families import FAMILIES, FAMILY_OF, DecoderConfig, supported_families, unsupported
from bench.runtime.family_options import FAMILY_OPTIONS, biases, layer_placements, moe_config, no_options

_MOST = {
    "num_hidden_layers": 1 << 12,
    "hidden_size": 1 << 18,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "head_dim": 1 << 14,
    "intermediate_size": 1 << 22,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 30,
    "original_max_position_embeddings": 1 << 30,
    "sliding_window": 1 << 30,
}
"""Sizes, with bounds far above any model's."""
_MAY_BE_NULL = ("num_key_value_heads", "head_dim", "sliding_window")
_POSITIVE = (
    "rope_theta",
    "rope_local_base_freq",
    "attention_multiplier",
    "embedding_multiplier",
    "logits_scaling",
    "query_pre_attn_scalar",
    "residual_multiplier",
)
_LISTS = {"short_factor", "long_factor"}
_WORDS = {"type", "rope_type"}
_SCALES = ("attention_factor", "mscale")
_ROPE_BY_LAYER_TYPE = {"gemma3_text"}
"""Models that hold rotary settings for each type of layer."""
_HUGE = 1e30
_MOST_SCALE = 1e3
"""Far more than any checkpoint multiplies its rotary tables by."""
_REFUSALS = (StrictDataclassError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What transformers raises about odd values."""
_FIX = "use the checkpoint's own config.json, as its authors published it"


_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu_tanh",  # Gemma's first configs say gelu; transformers uses the tanh form for them
}


def read_config(folder: Path) -> Any:  # noqa: ANN401
    """The transformers configuration in a checkpoint's folder.

    Raises:
        UserError: If there is none, it is damaged or of an architecture that the decoder does not run.
    """
    file = folder / CONFIG_FILE
    if not file.exists():
        raise no_checkpoint(folder)
    fields = read_json(file)
    require_whole_model(folder, fields)
    kind = _model_type(fields, file)
    return checked_config(CONFIG_MAPPING[kind].from_dict, fields, str(file))


def checked_config(make: Callable[[dict[str, Any]], Any], fields: dict[str, Any], source: str) -> Any:  # noqa: ANN401
    """The transformers configuration that `make` makes of fields.

    Args:
        make: Of transformers.
        fields: By transformers' names.
        source: The file, for messages.

    Raises:
        UserError: If a value is one that no model has, or transformers refuses it.
    """
    require_fields(fields, source)
    try:
        return make(fields)
    except _REFUSALS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source} cannot be read by transformers: {reason}", _FIX) from error


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
        moe=moe_config(config),
        **layer_placements(family, config),
        **biases(family, config),
        **FAMILY_OPTIONS.get(family, no_options)(config),
    )


def _model_type(fields: Mapping[str, Any], file: Path) -> str:
    """The model's type, which names the architecture; ``architectures`` may be missing."""
    kind, names = fields.get("model_type"), fields.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: architectures is {names!r}, not a list of names", _FIX)
    if not isinstance(kind, str) or kind not in FAMILY_OF:
        own_code = ", and code in a checkpoint is never run" if "auto_map" in fields else ""
        if names and not set(names) & set(FAMILIES):
            raise unsupported(f"architecture {', '.join(names)}", f"by the decoder{own_code}")
        raise UserError(
            f"{file}: model_type {kind!r} is not supported by the decoder{own_code}",
            f"use a checkpoint of one of: {supported_families()}",
        )
    return kind


def require_fields(fields: Mapping[str, Any], source: str) -> None:
    """Refuse values that no model has.

    Args:
        fields: The configuration by transformers' names; what is missing is left to transformers.
        source: The file, for messages.

    Raises:
        UserError: Naming the field and what it must be.
    """
    for name, most in _MOST.items():
        value: Any = fields.get(name)
        if name in fields and not (value is None and name in _MAY_BE_NULL):
            least = 2 if name == "sliding_window" else 1  # transformers' cache keeps all for a window of one
            least = 0 if least == 2 and fields.get("use_sliding_window") is False else least
            is_size = _is_whole(value) and least <= value <= most
            _require(is_size, source, name, value, f"a whole number in {least}..{most}")
    epsilon = fields.get("rms_norm_eps", 0.0)
    _require(_is_number(epsilon) and epsilon >= 0, source, "rms_norm_eps", epsilon, "a number from 0")
    for name in _POSITIVE:
        number = fields.get(name)
        is_right = number is None or (_is_number(number) and number > 0)
        _require(is_right, source, name, number, "a number above 0")
    for name in ("rope_parameters", "rope_scaling"):
        for label, rope in _rope_parts(fields, name):
            _require_rope(rope, f"{source}: {label}")
    tokens = fields.get("eos_token_id")
    tokens = tokens if isinstance(tokens, list) else [tokens]
    is_token = all(token is None or (_is_whole(token) and token >= -1) for token in tokens)
    _require(is_token, source, "eos_token_id", fields.get("eos_token_id"), "a token id, or a list of them")


def _rope_parts(fields: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """The rotary settings of a field, by layer type where the model has them so, and what to call them."""
    rope = fields.get(name)
    if fields.get("model_type") in _ROPE_BY_LAYER_TYPE and isinstance(rope, dict) and "rope_type" not in rope:
        yield from ((f"{name}.{kind}", own) for kind, own in rope.items())
    else:
        yield name, rope


def _require_rope(rope: Any, source: str) -> None:  # noqa: ANN401 - whatever the file holds
    """Refuse settings of the rotary embedding that are no numbers."""
    if rope is None:
        return
    if not isinstance(rope, dict):
        raise UserError(f"{source} is {rope!r}, not an object", _FIX)
    for name, value in rope.items():
        if name in _WORDS:
            _require(isinstance(value, str), source, name, value, "a name")
        elif name in _LISTS:
            is_list = isinstance(value, list) and all(_is_number(factor) and factor > 0 for factor in value)
            _require(is_list, source, name, value, "a list of numbers above 0")
        elif name in _MOST:
            is_size = _is_whole(value) and 1 <= value <= _MOST[name]
            _require(is_size, source, name, value, "a whole number above 0")
        elif value is not None and not isinstance(value, bool):
            _require(_is_number(value), source, name, value, "a finite number")
    for name in ("factor", "rope_theta"):
        value = rope.get(name)
        _require(value is None or value > 0, source, name, value, "above 0")
    for name, most in (("partial_rotary_factor", 1), *((name, _MOST_SCALE) for name in _SCALES)):
        value = rope.get(name)
        _require(value is None or 0 < value <= most, source, name, value, f"above 0 and at most {most:g}")


def _require(is_right: bool, source: str, name: str, value: object, rule: str) -> None:
    if not is_right:
        shown = str(value) if len(str(value)) <= 60 else f"{str(value)[:60]}..."
        raise UserError(f"{source}: {name} is {shown!r}, it must be {rule}", _FIX)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_HUGE < value < _HUGE


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
