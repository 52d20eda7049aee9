"""Reads a checkpoint's ``config.json``: refuses values that no model has, the rest is for transformers.

The values are checked before transformers sees them, because it would build lists of a billion layers, and
because its messages about a wrong type name neither file nor fix. Code in a checkpoint is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING

from bench.errors import UserError
from bench.runtime.checkpoint_files import CONFIG_FILE, no_checkpoint, read_json, require_whole_model
from bench.runtime.families import FAMILIES, FAMILY_OF, supported_families, unsupported

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
_LISTS = {"short_factor", "long_factor"}
_WORDS = {"type", "rope_type"}
_HUGE = 1e30
_MOST_SCALE = 1e3
"""Far more than any checkpoint multiplies its rotary tables by."""
_REFUSALS = (StrictDataclassError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What transformers raises about odd values."""
_FIX = "use the checkpoint's own config.json, as its authors published it"


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
            is_size = _is_whole(value) and least <= value <= most
            _require(is_size, source, name, value, f"a whole number in {least}..{most}")
    epsilon, theta = fields.get("rms_norm_eps", 0.0), fields.get("rope_theta")
    _require(_is_number(epsilon) and epsilon >= 0, source, "rms_norm_eps", epsilon, "a number from 0")
    is_theta = theta is None or (_is_number(theta) and theta > 0)
    _require(is_theta, source, "rope_theta", theta, "a number above 0")
    for name in ("rope_parameters", "rope_scaling"):
        _require_rope(fields.get(name), f"{source}: {name}")
    tokens = fields.get("eos_token_id")
    tokens = tokens if isinstance(tokens, list) else [tokens]
    is_token = all(token is None or (_is_whole(token) and token >= -1) for token in tokens)
    _require(is_token, source, "eos_token_id", fields.get("eos_token_id"), "a token id, or a list of them")


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
            _require(
                _is_whole(value) and 1 <= value <= _MOST[name], source, name, value, "a whole number above 0"
            )
        elif value is not None and not isinstance(value, bool):
            _require(_is_number(value), source, name, value, "a finite number")
    for name in ("factor", "rope_theta"):
        value = rope.get(name)
        _require(value is None or value > 0, source, name, value, "above 0")
    for name, most in (
        ("partial_rotary_factor", 1),
        ("attention_factor", _MOST_SCALE),
        ("mscale", _MOST_SCALE),
    ):
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
