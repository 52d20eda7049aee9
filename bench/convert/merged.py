"""A model with low-rank changes added to its weights, as a checkpoint of its own (`bench.train.exits`)."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.errors import UserError
from bench.runtime.checkpoint_files import read_json
from bench.runtime.loading import RuntimeOptions, load_decoder
from bench.runtime.low_rank import INNER, OUTER, merged
from bench.runtime.modules import PROVENANCE_FILE, WEIGHTS_FILE, require_fit, save_model
from bench.runtime.plain_weights import plain_weights
from bench.runtime.stored_config import stored_config
from bench.runtime.stored_tensors import read_file
from bench.tasks.tokenizer import load_tokenizer
from methods.training.trained_model import require_plain

_FIX = "set source to a folder that python -m bench.train.exits wrote for this model"


def convert_merged(source: Path, base: Path, out: Path) -> str:
    """Write the merged model in bf16, with its tokenizer; returns what it is.

    Args:
        source: Folder of the changes.
        base: The model's folder, or its GGUF file.
        out: Folder of the result.

    Raises:
        UserError: If the folder holds no changes, or those of another model.
    """
    file = source / WEIGHTS_FILE
    if not file.is_file():
        raise UserError(f"{source} holds no {WEIGHTS_FILE}", _FIX)
    decoder = load_decoder(base, RuntimeOptions(torch.device("cpu"), torch.float32, 1))
    require_plain(decoder.config, "bench.convert kind=merged")
    weights, changes = plain_weights(decoder), read_file(file)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in [name for name in changes if name.endswith(INNER)]:
        place, rank = name.removesuffix(INNER), changes[name].shape[0]
        outputs, inputs = weights[f"{place}.weight"].shape if f"{place}.weight" in weights else (0, 0)
        shapes |= {place + INNER: (rank, inputs), place + OUTER: (outputs, rank)}
    if not shapes:
        raise UserError(f"{file} holds no low-rank changes", _FIX)
    require_fit(changes, shapes, str(file), _FIX)
    whole = merged({**weights, **changes})
    facts = read_json(source / PROVENANCE_FILE)
    config = stored_config(base) | {facts["method"]: facts}
    save_model(out, {name: tensor.to(torch.bfloat16) for name, tensor in whole.items()}, config)
    load_tokenizer(base).save_pretrained(out)
    return f"the model with {len(shapes) // 2} changed projections"
