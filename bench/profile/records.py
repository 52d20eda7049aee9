"""What a profile holds, and its file: ``results/profiles/<model>-<device>-<8 hex>.json``.

Counts, bytes and seconds only; shares, speeds and predictions are computed by `bench.metrics.roofline`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.metrics import roofline
from bench.metrics.roofline import Costs
from bench.records.files import write_text

SCHEMA_VERSION = 1
"""Raised whenever a stored field changes its meaning."""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes per second at which the device reads.

    Args:
        memory: From a buffer of `buffer_bytes`, far larger than any cache.
        buffer_bytes: Its size.
        resident: From a buffer as large as the weights, read over and over as decoding reads them; above
            `memory` where a cache holds it.
    """

    memory: float
    buffer_bytes: int
    resident: float


@dataclass(frozen=True, slots=True)
class Level:
    """Everything that depends on the context, the number of tokens in the cache.

    Args:
        costs: Of passes, head and launch with that many tokens in the cache.
        ranges_s: Seconds of one row through the first layers, without the head, by number of layers.
        peak_allocated_bytes: Most memory allocated while those passes ran; None on a CPU.
        peak_reserved_bytes: Most memory that the allocator held; None on a CPU.
    """

    costs: Costs
    ranges_s: Mapping[int, float]
    peak_allocated_bytes: int | None
    peak_reserved_bytes: int | None


@dataclass(frozen=True, slots=True)
class MethodCost:
    """One method's rounds over the same prompts as the baseline's, all counts and seconds summed.

    Args:
        name: Its yaml file.
        prompts: Prompts decoded.
        tokens: Tokens after the first of each prompt.
        rounds: Rounds.
        drafted: Tokens drafted.
        decode_s: Decode time.
        draft_s: Part of it, drafting.
        verify_s: Part of it, verification.
        commit_s: Part of it, committing.
        baseline_tokens: Tokens after the first of each prompt, by the baseline.
        baseline_s: The baseline's decode time.
        predicted: Speedup that follows from the pass costs for these rounds; None where nothing was drafted.
        is_cost_only: The acceptance was given, or the weights are random.
        peak_allocated_bytes: Most memory allocated; None on a CPU.
        energy_j: Of decoding all prompts, by NVML; None without it.
    """

    name: str
    prompts: int
    tokens: int
    rounds: int
    drafted: int
    decode_s: float
    draft_s: float
    verify_s: float
    commit_s: float
    baseline_tokens: int
    baseline_s: float
    predicted: float | None
    is_cost_only: bool = False
    peak_allocated_bytes: int | None = None
    energy_j: float | None = None

    @property
    def measured(self) -> float:
        """Speedup: baseline seconds per token over the method's."""
        return (self.baseline_s / self.baseline_tokens) / (self.decode_s / self.tokens)


@dataclass(frozen=True, slots=True)
class Profile:
    """One model on one machine.

    Args:
        model: Its name in the configuration.
        identity: What distinguishes this profile from others of the model: weights, runtime, device.
        environment: See `bench.measure.environment`.
        parameters: Weights of the model, norms left out.
        weight_bytes: Bytes of weights that a pass reads.
        token_bytes: Bytes of keys and values of one token.
        cache_bytes: Bytes set aside for keys and values.
        bandwidth: At which the device reads.
        levels: Costs by context, shortest first.
        methods: Rounds of every method that is ready for the model.
        skipped: Why the other methods were not timed, by name.
    """

    model: str
    identity: Mapping[str, Any]
    environment: Mapping[str, Any]
    parameters: int
    weight_bytes: int
    token_bytes: int
    cache_bytes: int
    bandwidth: Bandwidth
    levels: tuple[Level, ...]
    methods: tuple[MethodCost, ...] = ()
    skipped: Mapping[str, str] | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def device(self) -> str:
        """What tables call it."""
        return str(self.environment["device"])

    def read_bytes(self, context: int) -> int:
        """Bytes that a decode step reads with so many tokens in the cache."""
        return roofline.step_bytes(self.weight_bytes, self.token_bytes, context)

    def ceiling(self, context: int) -> float:
        """Tokens per second that the bandwidth allows with so many tokens in the cache."""
        return roofline.ceiling_tokens_per_s(self.read_bytes(context), self.bandwidth.resident)

    def achieved(self, costs: Costs) -> float:
        """Share of the bandwidth that a decode step uses (MBU)."""
        read = self.read_bytes(costs.context)
        return roofline.achieved_share(read, costs.step_s, self.bandwidth.resident)


def save_profile(results: Path, profile: Profile) -> Path:
    """Write the profile, whole or not at all; a profile of the same identity is replaced.

    Raises:
        UserError: If the folder cannot be written.
    """
    digest = hashlib.sha256(json.dumps(profile.identity, sort_keys=True).encode()).hexdigest()[:8]
    device = re.sub(r"[^a-z0-9]+", "-", profile.device.lower()).strip("-")
    path = results / "profiles" / f"{profile.model}-{device}-{digest}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(asdict(profile), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}", "set results_dir to a folder that can be"
        ) from error
    return path


def load_profile(path: Path) -> Profile:
    """Read a stored profile.

    Raises:
        UserError: If the file is no profile, or of a schema version that this code does not know.
    """
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (version := stored["schema_version"]) != SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {version}, this code knows {SCHEMA_VERSION}",
                "profile the model again: python -m bench.profile model=...",
            )
        levels = tuple(_level(record) for record in stored["levels"])
        methods = tuple(MethodCost(**record) for record in stored["methods"])
        bandwidth = Bandwidth(**stored["bandwidth"])
        return Profile(**{**stored, "levels": levels, "methods": methods, "bandwidth": bandwidth})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is no profile: {error!r}", "profile the model again") from error


def _level(record: Mapping[str, Any]) -> Level:
    ranges = {int(layers): seconds for layers, seconds in record["ranges_s"].items()}
    return Level(**{**record, "costs": Costs.of_record(record["costs"]), "ranges_s": ranges})
