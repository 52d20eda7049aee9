"""Converts a model published as pickled shards, such as Vicuna v1.3, to safetensors for the loader.

It goes shard by shard, so only one is in memory at a time. Every tensor is checked against the config before
anything is written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.convert.published import only_tensors, read_file
from bench.errors import UserError
from bench.runtime.hub import COMPANIONS
from bench.runtime.loading import RuntimeOptions, build_decoder, load_config

WEIGHTS = "pytorch_model*.bin"
_SINGLE = "pytorch_model.bin"
_INDEX = "pytorch_model.bin.index.json"
_TABLE = "rotary_emb.inv_freq"
_META = torch.device("meta")


def convert_checkpoint(folder: Path, out: Path) -> list[Path]:
    """Write the checkpoint in `folder` to `out` as safetensors, with its config and tokenizer beside it.

    Returns:
        The weight files that were written.

    Raises:
        UserError: If the architecture is not supported, a shard is missing or damaged, or the tensors are
            not exactly those that the config requires.
    """
    config = load_config(folder)
    if out.resolve() == folder.resolve():
        raise UserError(f"out={out} is where the pickled weights are", "choose another folder")
    files = _shards(folder)
    shapes = {name: tensor.to(_META) for file in files for name, tensor in _tensors(file).items()}
    build_decoder(config, shapes, RuntimeOptions(_META, torch.float32, 1))  # raises if they do not fit
    out.mkdir(parents=True, exist_ok=True)
    written = list(_write(files, out))
    for pattern in COMPANIONS:
        for file in folder.glob(pattern):
            if file.name not in (_INDEX, "config.json"):
                shutil.copyfile(file, out / file.name)
    shutil.copyfile(
        folder / "config.json", out / "config.json"
    )  # last: an unfinished folder is no checkpoint
    return written


def _shards(folder: Path) -> list[Path]:
    index = folder / _INDEX
    names = [_SINGLE]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} holds no {', '.join(missing[:3])}",
            "finish the download; weights that are safetensors already need no conversion",
        )
    return [folder / name for name in names]


def _tensors(file: Path) -> dict[str, Tensor]:
    tensors = only_tensors(read_file(file), file)
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(_TABLE)}


def _write(files: list[Path], out: Path) -> Iterator[Path]:
    """One safetensors file per shard, and their index if there are several."""
    weight_map: dict[str, str] = {}
    size = 0
    for number, file in enumerate(files, start=1):
        tensors = {
            name: tensor.clone() for name, tensor in _tensors(file).items()
        }  # a file may not hold shared memory
        total = f"-{number:05d}-of-{len(files):05d}" if len(files) > 1 else ""
        path = out / f"model{total}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, path.name)
        size += sum(tensor.nbytes for tensor in tensors.values())
        yield path
    if len(files) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
