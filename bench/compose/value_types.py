"""Whether a value of a yaml file or the command line is of the type that a constructor's annotation names."""

import math
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, get_args, get_type_hints

WORDS: Mapping[type, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}


def plain_types(constructor: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    """Types of the parameters that take numbers, texts, flags or null only, by their annotation."""
    function = constructor.__dict__.get("__init__") if isinstance(constructor, type) else constructor
    try:
        hints = get_type_hints(function or constructor)
    except (NameError, TypeError, AttributeError):  # names that only a type checker imports
        return {}
    options = {key: get_args(hint) if isinstance(hint, UnionType) else (hint,) for key, hint in hints.items()}
    return {key: kinds for key, kinds in options.items() if key != "return" and set(kinds) <= set(WORDS)}


def is_of(value: object, kind: type) -> bool:
    """Whether a yaml value is of a type; whole numbers are numbers, flags are not."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind
