"""A method's settings as the first records have them, so that old and new runs of one thing are one thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LATER_SETTINGS: Mapping[str, object] = {
    "draft_vocab": None,
    "blocks": 1,
    "own_lm_heads": True,
    "authors_updates": False,
}
"""Settings of methods that came after the first records, and the value that means what was done before."""


def original_settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings as earlier records have them, without the list of frequent tokens, a place."""
    later = {"frequent_tokens": params.get("frequent_tokens"), **LATER_SETTINGS}
    return {key: value for key, value in params.items() if key not in later or value != later[key]}
