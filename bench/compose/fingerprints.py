"""What tells weights from others without reading all of them: hashes of checkpoints and of modules."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from bench.compose.components import resolve_path
from bench.runtime.gguf import gguf_hash, gguf_parameters, is_gguf, read_gguf
from bench.runtime.loading import weight_files
from bench.runtime.modules import PROVENANCE_FILE, WEIGHTS_FILE, count_parameters

_HASHED_BYTES = 1 << 20


def shape_hash(folder: Path) -> str:
    """Stands for random weights: they follow from the shape."""
    if is_gguf(folder):
        return "random-" + gguf_hash(read_gguf(folder))[:9]
    return "random-" + hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()[:9]


def checkpoint_hash(folder: Path) -> str:
    """16 hex digits over a checkpoint: its config, and name, size and first MiB of every weight file.

    The whole of a 13 GB file would take a minute to read; a retrained or converted checkpoint differs at
    once. Of a GGUF file, the header and the beginning of every tensor are read.
    """
    if is_gguf(folder):
        return gguf_hash(read_gguf(folder))
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in weight_files(folder):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_HASHED_BYTES))
    return digest.hexdigest()[:16]


def module_hash(weights: Any) -> str | None:  # noqa: ANN401 - a parameter as the yaml gives it
    """Hash of a method's trained modules, so that retrained or recalibrated ones make another run."""
    if not isinstance(weights, str):
        return None
    folder = Path(resolve_path(weights))
    if (folder / "config.json").is_file() or is_gguf(folder):  # a whole model of the method's own
        return checkpoint_hash(folder)
    files = [folder / name for name in (WEIGHTS_FILE, PROVENANCE_FILE)]
    found = [file.read_bytes() for file in files if file.is_file()]  # attaching refuses what is missing
    return hashlib.sha256(b"".join(found)).hexdigest()[:16] if found else None


def module_parameters(weights: Any) -> int | None:  # noqa: ANN401 - as above
    """Parameters that a method's modules hold beside the target; a whole model of its own counts whole."""
    if not isinstance(weights, str):
        return None
    folder = Path(resolve_path(weights))
    if is_gguf(folder):
        return gguf_parameters(read_gguf(folder))
    files = [file for file in (folder / WEIGHTS_FILE, folder / "model.safetensors") if file.is_file()]
    return sum(count_parameters(file) for file in files) or None
