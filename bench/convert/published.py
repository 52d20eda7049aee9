"""Published weight files, read without running anything that is in them.

Pickles go through ``weights_only=True``, which builds tensors and plain containers and nothing else.
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
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bench.errors import UserError
from bench.runtime.hub import Keys, fetch

_KEYS = Keys("source", "revision")
_CHUNK = 1 << 24


@dataclass(frozen=True, slots=True)
class Origin:
    """Where published weights came from.

    Args:
        source: Folder, file or Hub id, as it was given.
        revision: Of a Hub repository.
        file: The weights on this machine.
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
        found = {"source": self.source, "revision": self.revision, "file": self.file.name}
        return found | {"sha256": digest.hexdigest()}


def locate(source: str, revision: str | None, names: Sequence[str]) -> Origin:
    """Find a published file, downloaded first where it has to be.

    Args:
        source: The file itself, its folder, or a Hub repository.
        revision: Branch, tag or commit of a Hub repository.
        names: What it may be called, the best first.

    Raises:
        UserError: If it is not there or cannot be downloaded.
    """
    file = Path(source).expanduser()
    if file.is_file():
        return Origin(source, None, file)
    folder = fetch(source, revision, ["config.json", *names], _KEYS)
    matches = [sorted(folder.glob(name)) for name in names]
    found = next((one for one in matches if one), [])
    if len(found) > 1:
        raise UserError(
            f"{source} holds several such files: {', '.join(one.name for one in found[:3])}",
            "set source to one of them",
        )
    if not found:
        raise UserError(
            f"{source} holds none of {', '.join(names)}",
            "set source to the published file, the folder it lies in, or its Hub id",
        )
    return Origin(source, revision, found[0])


def read_file(file: Path) -> Mapping[str, Any]:
    """What a safetensors file or a pickle of plain containers holds, by name; large pickles are mapped.

    Raises:
        UserError: If it is damaged, or a pickle that wants to build anything but tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} holds more than tensors, and unpickling the rest could run code ({_reason(error)})",
            "take a safetensors copy, or let whoever trusts the file save its state dict alone",
        ) from error
    except (RuntimeError, EOFError, SafetensorError, ValueError) as error:
        raise UserError(
            f"{file} is damaged or cut short ({_reason(error)})", "delete it and download it again"
        ) from error
    if not isinstance(found, Mapping):
        raise UserError(
            f"{file} holds a {type(found).__name__}, not tensors by name", "use the file as it was published"
        )
    return found


def only_tensors(found: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """`found`, every entry of which must be a tensor of finite numbers.

    Raises:
        UserError: If one is not; it is named.
    """
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{file}: {name} is a {type(value).__name__}, not a tensor",
                "use the file as it was published",
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(f"{file}: {name} holds numbers that are not finite", "download the file again")
    return dict(found)


def _reason(error: Exception) -> str:
    """The first line that says something: torch begins with advice to switch the check off."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("WeightsUnpickler", "Unsupported"))]
    return (told or lines or [type(error).__name__])[0]
