"""What nvidia-ml-py (extra ``gpu``) reports of one GPU; None if the library or a value is missing."""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

import torch

Reading = TypeVar("Reading")


class NvmlDevice:
    """One GPU as NVML sees it.

    Args:
        library: The module `pynvml`, initialised.
        handle: Its handle of the GPU.
    """

    def __init__(self, library: ModuleType, handle: object) -> None:
        self._library = library
        self._handle = handle
        self.missing: dict[str, str] = {}
        """Why a value read as None, by the name of the value."""

    def driver(self) -> str | None:
        """Version of the driver."""
        version = self._read("driver", self._library.nvmlSystemGetDriverVersion)
        return None if version is None else str(version)

    def energy_j(self) -> float | None:
        """Energy since the driver was loaded, in joules."""
        library, handle = self._library, self._handle
        millijoules = self._read("energy", lambda: library.nvmlDeviceGetTotalEnergyConsumption(handle))
        return None if millijoules is None else millijoules / 1000

    def state(self) -> dict[str, Any]:
        """Clocks, heat, power, throttling and the processes on the GPU, now."""
        library, handle = self._library, self._handle
        readings: Mapping[str, Callable[[], Any]] = {
            "sm_clock_mhz": lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM),
            "memory_clock_mhz": lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_MEM),
            "temperature_c": lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU),
            "power_w": lambda: library.nvmlDeviceGetPowerUsage(handle) / 1000,
            "power_limit_w": lambda: library.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
            "throttle_bits": lambda: library.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
            "used_memory_bytes": lambda: library.nvmlDeviceGetMemoryInfo(handle).used,
        }
        return {name: self._read(name, reading) for name, reading in readings.items()}

    def process_ids(self) -> list[int] | None:
        """Processes that compute on the GPU, as the host numbers them."""
        library, handle = self._library, self._handle
        processes = self._read("processes", lambda: library.nvmlDeviceGetComputeRunningProcesses(handle))
        return None if processes is None else [int(process.pid) for process in processes]

    def _read(self, name: str, reading: Callable[[], Reading]) -> Reading | None:
        try:
            return reading()
        except (self._library.NVMLError, AttributeError) as error:  # not on this card, or not in this version
            self.missing[name] = f"NVML: {error}"
            return None


def nvml_device(device: torch.device) -> tuple[NvmlDevice | None, str | None]:
    """The GPU of a torch device, or None and the reason.

    Identified by its UUID, since ``CUDA_VISIBLE_DEVICES`` renumbers GPUs for torch and not for NVML.
    """
    if device.type != "cuda":
        return None, f"the device is {device.type}"
    try:
        library = import_module("pynvml")
    except ImportError:
        return None, "nvidia-ml-py is not installed (extra 'gpu')"
    try:
        library.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        return NvmlDevice(library, library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")), None
    except (library.NVMLError, AttributeError) as error:
        return None, f"NVML: {error}"
