"""Compiles the C files of this folder, once per processor and version, and loads them.

PyTorch's CPU products read weights at full bandwidth for one row on one core. For the two to twelve rows of a
verification they take twice as long, one row is never split over several cores, and every operation costs its
launch. The C code avoids all three. It needs a C compiler with OpenMP: ``$CC``, ``cc``, ``gcc`` or ``clang``.
The library is kept in the user's cache folder, under a name with the hash of its content: a file that is
damaged is never loaded, since running it could end the process without a word. Where the library cannot be
built, `library` returns the reason and PyTorch's operations are used.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.records.files import scratch_folder

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC")
_TIMEOUT_S = 120
_INTEGER, _POINTER = ctypes.c_int64, ctypes.c_void_p
_FUNCTIONS = {
    "lanes": ((), _INTEGER),
    "multiply": ((_POINTER, _INTEGER, *[_POINTER] * 4, ctypes.c_int), None),
    "norm_rows": ((_INTEGER, _INTEGER, _POINTER, _POINTER, ctypes.c_float, _POINTER), None),
    "run_layers": ((_POINTER, _POINTER, _POINTER), None),
    "scratch_size": ((_POINTER, _INTEGER, _INTEGER), _INTEGER),
}
"""Arguments and result of every C function that Python calls."""


@dataclass(frozen=True, slots=True)
class Missing:
    """The library could not be built or loaded.

    Args:
        reason: Why, in one line.
    """

    reason: str


@cache
def library() -> ctypes.CDLL | Missing:
    """The compiled library of this process, or why there is none."""
    compiler = _compiler()
    if compiler is None:
        return Missing("no C compiler found")
    try:
        loaded = ctypes.CDLL(str(_compiled(compiler)))
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return Missing(f"{compiler} failed: {lines[0] if lines else error.returncode}")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Missing(f"{compiler}: {error}")
    for name, (arguments, result) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, result
    return loaded


def required_library() -> ctypes.CDLL:
    """The compiled library, for code that runs only where there is one.

    Raises:
        RuntimeError: If there is none; `bench.runtime.tier_choice.choose_tier` refuses the tier before.
    """
    loaded = library()
    if isinstance(loaded, Missing):
        raise RuntimeError(loaded.reason)
    return loaded


def _compiler() -> str | None:
    candidates = [os.environ.get("CC"), "cc", "gcc", "clang"]
    return next((name for name in candidates if name and shutil.which(name)), None)


def _compiled(compiler: str) -> Path:
    """The library file in the cache folder, compiled if no sound one is there; processes may do so in
    parallel.
    """
    folder, name = _cache_folder(), f"native-{_fingerprint(compiler)}"
    for file in folder.glob(f"{name}-*.so"):
        if file.stem == f"{name}-{_content_hash(file)}":
            return file
        file.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    sources = [str(source) for source in _sources() if source.suffix == ".c"]
    with scratch_folder(folder, "building-") as scratch:
        fresh = scratch / "native.so"
        command = [compiler, *FLAGS, *sources, "-o", str(fresh), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S)
        return fresh.replace(folder / f"{name}-{_content_hash(fresh)}.so")


def _content_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _sources() -> list[Path]:
    """The C files and the header, by name."""
    return sorted([*FOLDER.glob("*.c"), *FOLDER.glob("*.h")])


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "self-speculative-bench"


def _fingerprint(compiler: str) -> str:
    """16 hex digits of everything that decides the compiler's output: machines may share a home folder."""
    digest = hashlib.sha256(" ".join([compiler, *FLAGS, platform.machine(), _processor()]).encode())
    for file in _sources():
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """Model and instruction sets of the first core, as far as the system reports them."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    first = info.read_text(errors="replace").partition("\n\n")[0]
    kept = ("model name", "flags", "Features", "CPU part")
    return "\n".join(line for line in first.splitlines() if line.startswith(kept))
