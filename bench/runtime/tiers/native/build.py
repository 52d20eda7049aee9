"""Compiling the C files of this folder, once per processor and version, and loading them.

Torch's CPU products read weights at full bandwidth for one row on one core, but take twice as long for the
two to twelve rows of a verification and split one row over no second core; and every operation costs its
launch. What is compiled here has neither fault. Needs a C compiler with OpenMP: ``$CC``, ``cc``, ``gcc`` or
``clang``. The library is kept in the user's cache folder. Where it cannot be built, `library` says why, and
torch's operations are used.
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

from bench.records.files import replacing

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no library.

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
        return ctypes.CDLL(str(_built(compiler)))
    except subprocess.CalledProcessError as error:
        told = error.stderr.decode(errors="replace").strip().splitlines()
        return Missing(f"{compiler} failed: {told[0] if told else error.returncode}")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Missing(f"{compiler}: {error}")


def sources() -> list[Path]:
    """The C files and what they include, by name."""
    return sorted([*FOLDER.glob("*.c"), *FOLDER.glob("*.h")])


def _compiler() -> str | None:
    wanted = [os.environ.get("CC"), "cc", "gcc", "clang"]
    return next((one for one in wanted if one and shutil.which(one)), None)


def _built(compiler: str) -> Path:
    """The library in the cache folder, compiled if it is not there; processes may do so at the same time."""
    folder = _cache_folder()
    made = folder / f"native-{_fingerprint(compiler)}.so"
    if not made.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        files = [str(file) for file in sources() if file.suffix == ".c"]
        with replacing(made, is_shared=True) as fresh:
            command = [compiler, *FLAGS, *files, "-o", str(fresh), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S)
    return made


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "self-speculative-bench"


def _fingerprint(compiler: str) -> str:
    """16 hex digits over all that decides what the compiler makes: home folders are shared by machines."""
    digest = hashlib.sha256(" ".join([compiler, *FLAGS, platform.machine(), _processor()]).encode())
    for file in sources():
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """Model and instruction sets of the first core, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    first = info.read_text(errors="replace").partition("\n\n")[0]
    kept = ("model name", "flags", "Features", "CPU part")
    return "\n".join(line for line in first.splitlines() if line.startswith(kept))
