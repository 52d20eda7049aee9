"""Reads Kangaroo's adapter as published: ``pytorch_model.bin``, six tensors, and a config (arXiv 2404.18911).

The authors' trainer saves the wrapped model, so every key may begin with ``module.``; their own loader would
then silently keep a random adapter. The files do not say which layer's output the adapter reads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.errors import UserError
from bench.runtime.checkpoint_files import read_json
from bench.runtime.families import DecoderConfig
from bench.runtime.modules import require_fit
from methods.kangaroo.draft import adapter_shapes

log = logging.getLogger(__name__)

FILES = ("model.safetensors", "pytorch_model.bin")
_WRAPPER = "module."
_TABLE = "rotary_emb.inv_freq"
_FIX = "use the adapter that was trained for this model"


def convert_kangaroo(
    published: Mapping[str, Tensor], shape: DecoderConfig, file: Path, exit_layer: int | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and provenance of the module.

    Args:
        published: The published state dict.
        shape: Shape of the target.
        file: Path of the file; a ``config.json`` in the same folder must agree with the target.
        exit_layer: Number of target layers that run before the adapter.

    Raises:
        UserError: If `exit_layer` is None or out of range, or anything does not fit the target.
    """
    if exit_layer is None or not 1 <= exit_layer < shape.layers:
        raise UserError(
            f"exit_layer must lie in 1..{shape.layers - 1}, got {exit_layer}; it is not in the files",
            "add exit_layer=2 for the authors' adapter of Vicuna 7B, exit_layer=3 for that of 13B",
        )
    tensors = {name.removeprefix(_WRAPPER): tensor for name, tensor in published.items()}
    for name in [name for name in tensors if name.endswith(_TABLE)]:
        log.info("%s: left out %s, a table that is computed from the config", file, name)
        del tensors[name]
    require_fit(tensors, adapter_shapes(shape), str(file), _FIX)
    _check_config(file.parent / "config.json", shape)
    return tensors, {"method": "kangaroo", "exit_layer": exit_layer}


def _check_config(file: Path, shape: DecoderConfig) -> None:
    """Compare what the tensors' shapes do not show: the number of heads and the epsilon of the norms."""
    if not file.is_file():
        return
    config = read_json(file)
    expected = {
        "num_hidden_layers": 1,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.norm_eps,
    }
    for name, value in expected.items():
        if config.get(name) not in (None, value):
            raise UserError(f"{file} says {name} {config[name]}, the adapter of this model has {value}", _FIX)
