"""Settings of ``generation_config.json`` that change which token wins, and that no arm applies."""

from __future__ import annotations

import json
from pathlib import Path

_NEUTRAL = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "num_beams": 1,
    "guidance_scale": None,
}
"""By name: the value that changes nothing."""


def ignored_generation_settings(folder: Path) -> str:
    """Such as ``repetition_penalty=1.3``; empty if the checkpoint sets none of them."""
    file = folder / "generation_config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # the end tokens are read from the same file, and refuse it
        return ""
    if not isinstance(settings, dict):
        return ""
    changed = {
        key: settings.get(key)
        for key, neutral in _NEUTRAL.items()
        if settings.get(key) not in (None, neutral)
    }
    return ", ".join(f"{key}={value}" for key, value in changed.items())
