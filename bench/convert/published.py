"""Finds and reads published weight files without running any code that is in them.

Pickles are read with ``weights_only=True``, which builds tensors and plain containers and nothing else.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import UserError
from bench.records.files import expanded
from bench.runtime.checkpoint_files import fetch, require_file
from bench.runtime.hub import Keys
from bench.runtime.stored_tensors import read_file as read_safetensors

_KEYS = Keys("source", "revision")
_CHUNK = 1 << 24


@dataclass(frozen=True, slots=True)
class Origin:
    """Where published weights came from.

    Args:
        source: Folder, file or Hub id, as the user gave it.
        revision: Branch, tag or commit of a Hub repository.
        file: Path of the weights on this machine.
    """

    source: str
    revision: str | None
    file: Path

    def facts(self) -> dict[str, Any]:
        """Provenance: source, revision, name of the file and its hash."""
        digest = hashlib.sha256()
        with self.file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
        origin = {"source": self.source, "revision": self.revision, "file": self.file.name}
        return origin | {"sha256": digest.hexdigest()}


def locate(source: str, revision: str | None, names: Sequence[str]) -> Origin:
    """Find a published file, and download it if necessary.

    Args:
        source: The file itself, its folder, or a Hub repository.
        revision: Branch, tag or commit of a Hub repository.
        names: Patterns for its name, the preferred one first.

    Raises:
        UserError: If it is missing, ambiguous or cannot be downloaded.
    """
    file = expanded(source)
    if file.is_file():
        return Origin(source, None, file)
    folder = fetch(source, revision, ["config.json", *names], _KEYS)
    matches = next((files for name in names if (files := sorted(folder.glob(name)))), [])
    if len(matches) > 1:
        raise UserError(
            f"{source} holds several such files: {', '.join(match.name for match in matches[:3])}",
            "set source to one of them",
        )
    if not matches:
        raise UserError(
            f"{source} holds none of {', '.join(names)}",
            "set source to the published file, the folder it lies in, or its Hub id",
        )
    return Origin(source, revision, matches[0])


def read_file(file: Path) -> Mapping[str, Any]:
    """Content of a safetensors file or of a pickle of plain containers, by name.

    Pickles in the zip format are memory-mapped.

    Raises:
        UserError: If it is damaged, or a pickle that would build anything but tensors and plain containers.
    """
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    require_file(file, file.stat().st_size)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} holds more than tensors, and unpickling the rest could run code ({_reason(error)})",
            "take a safetensors copy, or let whoever trusts the file save its state dict alone",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"{file} is damaged or cut short ({_reason(error)})", "delete it and download it again"
        ) from error
    if isinstance(content, Mapping) and not all(isinstance(name, str) for name in content):
        raise UserError(f"{file} holds entries without a name", "use the file as it was published")
    if not isinstance(content, Mapping):
        raise UserError(
            f"{file} holds a {type(content).__name__}, not tensors by name",
            "use the file as it was published",
        )
    return content


def only_tensors(content: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """`content`, after a check that every entry is a tensor of finite numbers.

    Raises:
        UserError: If an entry is not; the message names it.
    """
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{file}: {name} is a {type(value).__name__}, not a tensor",
                "use the file as it was published",
            )
        if value.is_meta or value.layout != torch.strided or value.is_complex():
            raise UserError(
                f"{file}: {name} is a meta, sparse or complex tensor", "use the file as it was published"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(f"{file}: {name} holds numbers that are not finite", "download the file again")
    return dict(content)


def _reason(error: Exception) -> str:
    """The line with the cause: torch puts advice to switch the check off before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith(("WeightsUnpickler", "Unsupported"))]
    return (causes or lines or [type(error).__name__])[0]
