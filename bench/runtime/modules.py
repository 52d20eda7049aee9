"""Weights on disk: the trained modules of a method, and checks that files fit a model and this machine's
memory.

A module is a folder with the tensors ``module.safetensors`` and their provenance ``module.json``. A method
that was only fitted to a model, for example by choosing layers to skip, has a ``module.json`` alone.

Loading is strict: every missing, unexpected or misshapen tensor is named, and pickles are not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.errors import UserError
from bench.records.files import replacing, write_text
from bench.runtime.checkpoint_files import is_gguf, read_json
from bench.runtime.gguf import gguf_shapes, read_gguf
from bench.runtime.linear import Linear, keeps_stored_layout, rearranged_copies
from bench.runtime.stored_tensors import read_file, usable
from bench.runtime.tensor_header import read_header

WEIGHTS_FILE = "module.safetensors"
PROVENANCE_FILE = "module.json"
MODEL_FILE = "model.safetensors"
GIB = 1 << 30
_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_SHOWN = 6  # problems that a message lists


def save_module(folder: Path, tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> None:
    """Write a module's tensors and provenance; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS_FILE) as fresh:
        _save_tensors(tensors, fresh)
    save_provenance(folder, provenance)


def save_model(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a whole model of a method's own; its weights come last and appear whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / MODEL_FILE) as fresh:
        _save_tensors(tensors, fresh)
        write_text(folder / "config.json", _plain_json(config))


def save_provenance(folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write or replace a module's provenance, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PROVENANCE_FILE, _plain_json(provenance))


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)


def _plain_json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, indent=2, sort_keys=True) + "\n"


def load_provenance(
    folder: Path,
    method: str,
    *,
    files: Sequence[str] = (WEIGHTS_FILE, PROVENANCE_FILE),
    command: str = "python -m bench.train",
) -> dict[str, Any]:
    """A module's provenance: its method, the layers it was made for, how it was trained.

    Args:
        folder: The module's folder.
        method: The method that wants to use it; the module must belong to it.
        files: Files that the folder must hold; a module without tensors has its provenance alone.
        command: Makes such a module, for the message.

    Raises:
        UserError: If a file is missing, or the module belongs to another method.
    """
    for name in files:
        if not (folder / name).is_file():
            content = "trained weights" if WEIGHTS_FILE in files else "settings"
            raise UserError(
                f"{folder} holds no {name}, so {method} has no {content} for this model",
                f"make them: {command} method={method} model=...; or set method.weights",
            )
    provenance = read_json(folder / PROVENANCE_FILE)
    if provenance.get("method") != method:
        raise UserError(
            f"{folder} holds a module of {provenance.get('method')!r}, not of {method!r}",
            f"set method.weights to a folder written by {command} method={method}",
        )
    return provenance


def load_module(folder: Path, shapes: Mapping[str, tuple[int, ...]], like: Tensor) -> dict[str, Tensor]:
    """Read a module's tensors, checked against the shapes that this model needs.

    Args:
        folder: Where `save_module` wrote them.
        shapes: Shape of every expected tensor, by name.
        like: A tensor whose device and dtype the result takes.

    Raises:
        UserError: If names or shapes differ; the message lists the differences.
    """
    return fitted(read_file(folder / WEIGHTS_FILE), shapes, like, str(folder / WEIGHTS_FILE))


def fitted(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], like: Tensor, source: str
) -> dict[str, Tensor]:
    """`tensors` on the device and in the dtype of `like`, checked against the shapes that a model needs.

    Raises:
        UserError: As `require_fit`, and if numbers are not finite.
    """
    require_fit(
        tensors,
        shapes,
        source,
        "use weights that were trained for this model, or train them with python -m bench.train",
    )
    return usable(tensors, source, like.device, like.dtype)


def require_fit(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: str, fix: str
) -> None:
    """Refuse tensors that are not exactly those a model needs.

    Args:
        tensors: The tensors of a file, by name.
        shapes: Shape of every expected tensor, by name.
        source: Where the tensors come from, for the message.
        fix: What to do about it, for the message.

    Raises:
        UserError: If names or shapes differ, or numbers are quantised; the message lists the differences.
    """
    problems = [f"{name} is missing" for name in shapes if name not in tensors]
    problems += [f"{name} is unexpected" for name in tensors if name not in shapes]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, this model needs {shape}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    problems += [
        f"{name} holds {str(tensor.dtype).removeprefix('torch.')} numbers, not floating ones"
        for name, tensor in tensors.items()
        if name in shapes and not tensor.is_floating_point()
    ]
    if problems:
        raise UserError(f"{source} does not fit this model: {_listed(problems)}", fix)


class TensorStore(Protocol):
    """Tensors by name, each to be taken once: a dictionary, or a file that reads them when they are taken."""

    def pop(self, name: str, default: None, /) -> Tensor | None: ...

    def __iter__(self) -> Iterator[str]: ...


class CheckpointTensors:
    """Tensors of a checkpoint to take by name; checks shapes, and finally that none is left over.

    Problems are collected, so that one message can report them all.

    Args:
        tensors: By name; a tensor is removed when it is taken.
        norm_offset: Added to every norm weight.
        device: Where the tensors are.
    """

    def __init__(self, tensors: TensorStore, norm_offset: float, device: torch.device) -> None:
        self._tensors = tensors
        self._norm_offset = norm_offset
        self._device = device
        self._problems: list[str] = []
        self._names = frozenset(tensors)

    def holds(self, name: str) -> bool:
        """Whether the checkpoint has a tensor called `name`."""
        return name in self._names

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor called `name`; zeros if it is missing or misshapen, which `finish` reports."""
        tensor = self._tensors.pop(name, None)
        if tensor is None:
            self._problems.append(f"{name} is missing")
            return torch.zeros(shape, device=self._device)
        if tuple(tensor.shape) != shape:
            self._problems.append(f"{name} has shape {tuple(tensor.shape)} instead of {shape}")
            return torch.zeros(shape, device=self._device)
        return tensor

    def norm(self, name: str, width: int) -> Tensor:
        """A norm's weight, shape [width], as it is multiplied."""
        weight = self.take(name, width)
        return weight + self._norm_offset if self._norm_offset else weight

    def linear(
        self, names: str | list[str], outputs: tuple[int, ...], inputs: int, bias: bool = False
    ) -> Linear:
        """One projection, or several fused along their outputs; `outputs` holds the number of each."""
        names = [names] if isinstance(names, str) else names
        sized = list(zip(names, outputs, strict=True))
        weight = _joined([self.take(f"{name}.weight", rows, inputs) for name, rows in sized])
        if not bias:
            return Linear(weight)
        return Linear(weight, _joined([self.take(f"{name}.bias", rows) for name, rows in sized]))

    def finish(self) -> None:
        """Report all problems, if there are any.

        Raises:
            UserError: If a tensor is missing, misshapen or was not taken.
        """
        self._problems += [f"{name} is unexpected" for name in self._tensors]
        fix = "check that weights and config.json are of the same model and the download is complete"
        if self._problems == ["lm_head.weight is missing"]:
            fix = "the model was saved without its head: save it again, loaded by AutoModelForCausalLM"
        if self._problems:
            raise UserError(f"the weights do not fit config.json: {_listed(self._problems)}", fix)


def require_room(files: Iterable[Path], device: torch.device, dtype: torch.dtype) -> None:
    """Refuse weights that cannot fit into memory, before they are read.

    The cache needs memory as well, and so do the weights that ``runtime.tier=eager`` multiplies by.

    Args:
        files: The checkpoint's safetensors files, or its GGUF file.
        device: Where the weights will be.
        dtype: Their precision.

    Raises:
        UserError: If they need more memory than there is, or a file is damaged.
    """
    needed = weight_bytes(files, device, dtype)
    room = memory_bytes(device)
    if needed > room:
        where = "the GPU has free" if device.type == "cuda" else "this machine has"
        raise UserError(
            f"the weights need {needed / GIB:.1f} GiB in {str(dtype).removeprefix('torch.')}, "
            f"and {where} {room / GIB:.1f} GiB",
            "use a smaller model or a larger device, runtime.dtype=bfloat16 for float32, or "
            "runtime.devices=2 to spread the layers over two GPUs",
        )


def weight_bytes(files: Iterable[Path], device: torch.device, dtype: torch.dtype) -> int:
    """Memory of a checkpoint's weights, with the copies of projections in layouts that multiply faster.

    Args: See `require_room`.
    """
    shapes = {name: shape for file in files for name, shape in _shapes(file).items()}
    numbers = 0
    for name, shape in shapes.items():
        size, is_embedding = prod(shape), name.endswith(_EMBEDDING)
        if is_embedding or len(shape) < 2 or keeps_stored_layout(device, dtype):
            numbers += size
        if len(shape) >= 2 and not (is_embedding and any(other.endswith(_HEAD) for other in shapes)):
            numbers += size * rearranged_copies(size, device, dtype)  # of a tied embedding: for the head
    return numbers * dtype.itemsize


def memory_bytes(device: torch.device) -> int:
    """Free memory of a GPU; for a CPU all memory of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    if is_gguf(file):
        return gguf_shapes(read_gguf(file))
    return {tensor.name: tensor.shape for tensor in read_header(file)}


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _listed(problems: list[str]) -> str:
    """The first problems, and how many more there are."""
    more = len(problems) - _SHOWN
    return "; ".join(problems[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
