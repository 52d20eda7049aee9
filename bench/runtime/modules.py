"""Trained modules of a method on disk: a folder with ``module.safetensors`` and its provenance,
``module.json``. What a method was only fitted to a model by, such as layers to skip, is a ``module.json``
alone.

Loading is strict: every missing, unexpected or misshapen tensor is named, and pickles are not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.errors import UserError
from bench.records.files import replacing, write_text

WEIGHTS_FILE = "module.safetensors"
PROVENANCE_FILE = "module.json"
MODEL_FILE = "model.safetensors"


def save_module(folder: Path, tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> None:
    """Write a module's tensors and provenance; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS_FILE) as fresh:
        _save_tensors(tensors, fresh)
    save_provenance(folder, provenance)


def save_model(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a whole model of a method's own; the weights appear last and whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / MODEL_FILE) as fresh:
        _save_tensors(tensors, fresh)
        write_text(folder / "config.json", _plain_json(config))


def save_provenance(folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write or replace what a module says of itself, whole or not at all."""
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
    """What the module says of itself: its method, the layers it was made for, how it was trained.

    Args:
        folder: Where the module lies.
        method: Whose it must be.
        files: What makes it whole; a module without tensors is its provenance alone.
        command: Makes such a module.

    Raises:
        UserError: If the folder holds no module, or one of another method.
    """
    for name in files:
        if not (folder / name).is_file():
            wanted = "trained weights" if WEIGHTS_FILE in files else "settings"
            raise UserError(
                f"{folder} holds no {name}, so {method} has no {wanted} for this model",
                f"make them: {command} method={method} model=...; or set method.weights",
            )
    found: dict[str, Any] = json.loads((folder / PROVENANCE_FILE).read_text())
    if found.get("method") != method:
        raise UserError(
            f"{folder} holds a module of {found.get('method')!r}, not of {method!r}",
            f"set method.weights to a folder written by {command} method={method}",
        )
    return found


def load_module(folder: Path, shapes: Mapping[str, tuple[int, ...]], like: Tensor) -> dict[str, Tensor]:
    """Read a module's tensors, checked against the shapes this model needs.

    Args:
        folder: Where `save_module` wrote them.
        shapes: Every expected tensor by name.
        like: A tensor whose device and dtype the result takes.

    Raises:
        UserError: If names or shapes differ; all differences are named.
    """
    return fitted(load_file(folder / WEIGHTS_FILE), shapes, like, str(folder / WEIGHTS_FILE))


def fitted(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], like: Tensor, source: str
) -> dict[str, Tensor]:
    """`tensors` on the device and in the dtype of `like`, checked against the shapes a model needs.

    Raises:
        UserError: As `require_fit`.
    """
    require_fit(
        tensors,
        shapes,
        source,
        "use weights that were trained for this model, or train them with python -m bench.train",
    )
    return {name: tensor.to(like.device, like.dtype) for name, tensor in tensors.items()}


def require_fit(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: str, fix: str
) -> None:
    """Refuse tensors that are not exactly those a model needs.

    Args:
        tensors: What was found.
        shapes: Every expected tensor by name.
        source: Where it was found, for the message.
        fix: What to do about it, for the message.

    Raises:
        UserError: If names or shapes differ, or numbers are quantised; all differences are named.
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
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise UserError(f"{source} does not fit this model: {'; '.join(problems[:6])}{more}", fix)


def count_parameters(file: Path) -> int:
    """Elements of all tensors in a safetensors file; reads its header only."""
    with safe_open(file, "pt") as opened:
        return sum(prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118 - no dict
