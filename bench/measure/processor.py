"""Facts of the processor that decide how fast it computes, read without torch."""

import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

THREAD_VARIABLES = (
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


def usable_cores() -> int | None:
    """Cores that this process may run on; None where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def cores() -> int:
    """Cores to share work among: those that this process may run on, or all of the machine."""
    return usable_cores() or os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        text = info.read_text(errors="replace")
        for line in text.splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
        if codes := dict(re.findall(r"CPU (implementer|part)\s*: (\w+)", text)):  # ARM names no model
            return f"{platform.machine()} (implementer {codes.get('implementer')}, part {codes.get('part')})"
    return platform.processor() or platform.machine()


def is_same_processor(block: Mapping[str, Any]) -> bool:
    """Whether an environment block (`bench.measure.environment`) was taken on a machine like this one.

    Compared is all that decides the record's device and number of threads. A machine with a GPU is never the
    same, because only torch knows its state.
    """
    cpu = block.get("cpu") or {}
    here = {"model": cpu_model(), "cores": os.cpu_count(), "usable_cores": usable_cores()}
    here |= {name.lower(): os.environ.get(name) for name in THREAD_VARIABLES}
    is_same = all(name in cpu and cpu[name] == value for name, value in here.items())
    versions = block.get("versions") or {}
    return is_same and block.get("gpu") is None and versions.get("torch") == version("torch")
