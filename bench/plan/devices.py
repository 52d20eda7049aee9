"""GPUs that a plan can estimate for: memory and bandwidth from their makers' data sheets.

So a plan made on a laptop says what a run will take on the machine it is meant for. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One model of GPU.

    Args:
        title: Its name.
        memory_bytes: Size of its memory.
        bytes_per_s: Peak bandwidth of its memory.
        flops_per_s: Peak rate of dense products in half precision.
    """

    title: str
    memory_bytes: int
    bytes_per_s: float
    flops_per_s: float


GPUS = {
    "v100": Gpu("V100", 32 * 10**9, 900e9, 125e12),
    "a100_40gb": Gpu("A100-40GB", 40 * 10**9, 1555e9, 312e12),
    "a100_80gb": Gpu("A100-80GB", 80 * 10**9, 2039e9, 312e12),
    "h100": Gpu("H100", 80 * 10**9, 3350e9, 989e12),
    "h200": Gpu("H200", 141 * 10**9, 4800e9, 989e12),
    "a6000": Gpu("RTX A6000", 48 * 10**9, 768e9, 155e12),
    "l40s": Gpu("L40S", 48 * 10**9, 864e9, 362e12),
    "rtx3090": Gpu("RTX 3090", 24 * 10**9, 936e9, 71e12),
    "rtx4090": Gpu("RTX 4090", 24 * 10**9, 1008e9, 165e12),
}
"""By the name that ``bench.device`` takes; SXM versions where there are several."""

_WORDS = {
    "v100": ("V100",),
    "a100_40gb": ("A100", "40GB"),
    "a100_80gb": ("A100", "80GB"),
    "h100": ("H100",),
    "h200": ("H200",),
    "a6000": ("RTX A6000",),
    "l40s": ("L40S",),
    "rtx3090": ("3090",),
    "rtx4090": ("4090",),
}


def recognised(name: str) -> Gpu | None:
    """The GPU with this name in its driver, or None if it is not in the table."""
    keys = [key for key, words in _WORDS.items() if all(word in name for word in words)]
    return GPUS[keys[0]] if keys else None
