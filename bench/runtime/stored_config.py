"""The configuration of a model as it is stored, for checkpoints that are made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.runtime.checkpoint_files import CONFIG_FILE, is_gguf, read_json
from bench.runtime.loading import load_config


def stored_config(model: Path) -> dict[str, Any]:
    """The content of config.json; of a GGUF file, what transformers would write there.

    Args:
        model: Folder of a checkpoint, or a GGUF file.

    Raises:
        UserError: If it has none that can be read.
    """
    if not is_gguf(model):
        return read_json(model / CONFIG_FILE)
    config: dict[str, Any] = json.loads(load_config(model).to_json_string(use_diff=False))
    return config
