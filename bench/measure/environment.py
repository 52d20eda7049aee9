"""Provenance of a run: the machine, versions, code and settings that measured it.

A value that cannot be read is None and `missing` says why; nothing here stops a run. No personal data: no
host or user name, and the home folder is written ``~``.
"""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.measure.nvml import nvml_device
from bench.measure.processor import THREAD_VARIABLES, cpu_model, usable_cores

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "hydra-core", "nvidia-ml-py")
CODE = ("bench", "methods", "conf", "pyproject.toml")
"""What can change a measurement; results lie in the same repository, but are no change of the code."""
ROOT = Path(__file__).parents[2]
THIS_FILE = "bench/measure/environment.py"
GIT_TIMEOUT_S = 10.0


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Everything that identifies where and with what a run was measured; JSON-able.

    Args:
        device: Where the model decodes.
        dtype: Type of its weights.
    """
    missing: dict[str, str] = {}
    return {
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": _without_home(shlex.join(sys.argv)),
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": _versions(missing),
        "git": _git(missing),
        "cpu": _cpu(missing),
        "numerics": _numerics(missing),
        "gpu": gpu_state(device, missing),
        "missing": missing,
    }


def device_name(device: torch.device) -> str:
    """The device's name in tables: the GPU's, or the CPU's with the number of torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_model()}, {threads} thread{'s' if threads != 1 else ''}"


def gpu_state(device: torch.device, missing: dict[str, str]) -> dict[str, Any] | None:
    """Clocks, heat, power, throttling and other processes of the GPU, now; None on a CPU.

    Args:
        device: Where the model decodes.
        missing: Filled with the reason for each value that cannot be read.
    """
    if device.type != "cuda":
        missing["gpu"] = f"the device is {device.type}"
        return None
    properties = torch.cuda.get_device_properties(device)
    state: dict[str, Any] = {"name": properties.name, "memory_bytes": properties.total_memory}
    state["compute_capability"] = f"{properties.major}.{properties.minor}"
    nvml, reason = nvml_device(device)
    if nvml is None:
        missing["gpu.nvml"] = str(reason)
        return state | {"driver": None, "other_processes": None}
    state |= nvml.state() | {"driver": nvml.driver()}
    is_on_gpu = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    state["other_processes"] = other_processes(nvml.process_ids(), os.getpid(), is_on_gpu)
    missing |= {f"gpu.{name}": why for name, why in nvml.missing.items()}
    return state


def other_processes(process_ids: list[int] | None, own: int, is_on_gpu: bool) -> int | None:
    """Number of processes on the GPU besides this one.

    Inside a container NVML reports the host's process numbers, so this process is listed under a number that
    it does not know.

    Args:
        process_ids: All processes on the GPU; None where unknown.
        own: Number of this process.
        is_on_gpu: Whether this process uses the GPU already.
    """
    if process_ids is None:
        return None
    others = len([number for number in process_ids if number != own])
    is_unlisted = is_on_gpu and own not in process_ids
    return max(0, others - is_unlisted)


def is_gpu_shared(block: dict[str, Any]) -> bool | None:
    """Whether an environment block shows other work on its GPU; None where unknown or without a GPU."""
    others = (block.get("gpu") or {}).get("other_processes")
    return None if others is None else others > 0


def _without_home(text: str) -> str:
    """The text with the home folder, which mostly names the user, written ``~``."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    return text.replace(home, "~") if len(home) > 1 else text


def _versions(missing: dict[str, str]) -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
            missing[f"versions.{package}"] = "not installed"
    versions["cuda"] = torch.version.cuda
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
    versions["cudnn"] = None if cudnn is None else str(cudnn)
    if torch.version.cuda is None:
        missing["versions.cuda"] = missing["versions.cudnn"] = "torch is built without CUDA"
    elif cudnn is None:
        missing["versions.cudnn"] = "no GPU or no cuDNN"
    return versions


def _git(missing: dict[str, str]) -> dict[str, str | None]:
    """Commit of the code and a hash of what was changed since; `diff` is None for a clean tree."""
    try:
        _run_git("ls-files", "--error-unmatch", THIS_FILE)  # a venv may lie in another repository
        commit = _run_git("rev-parse", "HEAD").decode().strip()
        return {"commit": commit, "diff": _diff_hash()}
    except (OSError, subprocess.SubprocessError) as error:
        lines = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
        missing["git"] = _without_home(lines[0] if lines else f"git: {type(error).__name__}")
        return {"commit": None, "diff": None}


def _diff_hash() -> str | None:
    """16 hex digits over changed and new files of the code, None where there are none."""
    digest = hashlib.sha256(changed := _run_git("diff", "HEAD", "--binary", "--", *CODE))
    new = _run_git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE).decode().split("\0")
    for name in filter(None, new):
        digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest()[:16] if changed or any(new) else None


def _run_git(*arguments: str) -> bytes:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=GIT_TIMEOUT_S).stdout


def _cpu(missing: dict[str, str]) -> dict[str, Any]:
    cores = usable_cores()
    has_memory = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    for name, is_known in (("usable_cores", cores is not None), ("memory_bytes", has_memory)):
        if not is_known:
            missing[f"cpu.{name}"] = f"not available on {platform.system()}"
    return {
        "model": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": cores,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if has_memory else None,
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch_threads": torch.get_num_threads(),
    } | {name.lower(): os.environ.get(name) for name in THREAD_VARIABLES}


def _numerics(missing: dict[str, str]) -> dict[str, Any]:
    """Settings that change what a matrix product returns."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    readings: dict[str, Callable[[], object]] = {
        "matmul_precision": torch.get_float32_matmul_precision,
        "tf32_matmul": lambda: cuda.matmul.allow_tf32,
        "tf32_cudnn": lambda: cudnn.allow_tf32,
        "fp32_precision_matmul": lambda: cuda.matmul.fp32_precision,
        "fp32_precision_cudnn": lambda: cudnn.fp32_precision,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
        "cpu_capability": torch.backends.cpu.get_cpu_capability,
    }
    values: dict[str, Any] = {}
    for name, reading in readings.items():
        try:
            values[name] = reading()
        except RuntimeError as error:  # torch's old flags cannot be read if only its new ones were set
            values[name] = None
            missing[f"numerics.{name}"] = str(error).partition(",")[0]
    return values
