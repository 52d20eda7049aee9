"""Kangaroo's adapter as published: ``pytorch_model.bin`` of six tensors beside a config (arXiv 2404.18911).

The authors' trainer saves without unwrapping, so every key may begin with ``module.``; their own loader
would then silently keep a random adapter. Which layer the adapter reads is not in the files.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.errors import UserError
from bench.runtime.families import DecoderConfig
from bench.runtime.modules import require_fit
from methods.kangaroo.draft import adapter_shapes

log = logging.getLogger(__name__)

FILES = ("model.safetensors", "pytorch_model.bin")
_WRAPPER = "module."
_TABLE = "rotary_emb.inv_freq"
_FIX = "use the adapter that was trained for this model"


def convert_kangaroo(
    found: Mapping[str, Tensor], shape: DecoderConfig, file: Path, exit_layer: int | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and provenance of the module.

    Args:
        found: The published state dict.
        shape: The target's.
        file: Where it was read; a ``config.json`` beside it must agree with the target.
        exit_layer: Layers of the target whose output the adapter reads.

    Raises:
        UserError: If `exit_layer` is not given or not there, or anything does not fit the target.
    """
    if exit_layer is None or not 1 <= exit_layer < shape.layers:
        raise UserError(
            f"exit_layer must lie in 1..{shape.layers - 1}, got {exit_layer}; the files do not say it",
            "add exit_layer=2 for the authors' adapter of Vicuna 7B, exit_layer=3 for that of 13B",
        )
    tensors = {name.removeprefix(_WRAPPER): tensor for name, tensor in found.items()}
    for name in [name for name in tensors if name.endswith(_TABLE)]:
        log.info("%s: %s is a table that follows from the config, and is left out", file, name)
        del tensors[name]
    require_fit(tensors, adapter_shapes(shape), str(file), _FIX)
    _check_config(file.parent / "config.json", shape)
    return tensors, {"method": "kangaroo", "exit_layer": exit_layer}


def _check_config(file: Path, shape: DecoderConfig) -> None:
    """Shapes do not show how many heads share them, nor the norms' epsilon; the config does."""
    if not file.is_file():
        return
    told = json.loads(file.read_text())
    wanted = {
        "num_hidden_layers": 1,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.norm_eps,
    }
    for name, value in wanted.items():
        if told.get(name) not in (None, value):
            raise UserError(f"{file} says {name} {told[name]}, the adapter of this model has {value}", _FIX)
