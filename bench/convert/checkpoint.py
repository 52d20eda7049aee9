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
from bench.runtime.checkpoint_files import COMPANIONS, CONFIG_FILE, indexed_files, require_file
from bench.runtime.loading import RuntimeOptions, build_decoder, load_config
from bench.runtime.stored_tensors import transformers_names

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
    stored = {name: tensor.to(_META) for file in files for name, tensor in _tensors(file).items()}
    shapes = {name: stored[old] for name, old in transformers_names(stored, folder).items()}
    if others := [name for name, tensor in shapes.items() if not tensor.is_floating_point()]:
        raise UserError(
            f"{folder}: {others[0]} holds {shapes[others[0]].dtype} numbers, not floating ones",
            "use the checkpoint's fp32, bf16 or fp16 original",
        )
    companions = _companions(folder)
    build_decoder(config, shapes, RuntimeOptions(_META, torch.float32, 1))  # raises if they do not fit
    out.mkdir(parents=True, exist_ok=True)
    written = list(_write(files, out))
    for file in companions:  # config.json comes last: an unfinished folder is no checkpoint
        shutil.copyfile(file, out / file.name)
    return written


def _companions(folder: Path) -> list[Path]:
    """The files to copy beside the weights, ``config.json`` last.

    Raises:
        UserError: If one of them is a link that leads out of the folder: it could name any file of this
            machine. Links of the Hub's cache lead to its own store.
    """
    homes = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        homes.append(folder.resolve().parents[1] / "blobs")
    files = {file for pattern in COMPANIONS for file in folder.glob(pattern) if file.name != _INDEX}
    for file in sorted(files):
        require_file(file)
        if not any(file.resolve().is_relative_to(home) for home in homes):
            raise UserError(
                f"{file} is a link that leads out of its folder, to {file.resolve()}",
                "remove it, or replace it by the file itself if that belongs to the model",
            )
    return sorted(files, key=lambda file: (file.name == CONFIG_FILE, file.name))


def _shards(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.is_file():
        return indexed_files(index)
    if not (folder / _SINGLE).is_file():
        raise UserError(
            f"{folder} holds no {_SINGLE}",
            "finish the download; weights that are safetensors already need no conversion",
        )
    return [folder / _SINGLE]


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
