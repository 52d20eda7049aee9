"""How large a proof is: what ``conf/prove.yaml`` and the command line may set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from bench.compose.schema import ModelConfig, RuntimeConfig
from bench.errors import UserError

LEAST = {"prompts": 1, "max_new_tokens": 2, "draws": 200, "tokens": 2, "seed": 0}


@dataclass
class ProveConfig:
    """Settings of a proof.

    Args:
        method: The method, or with a choice list or ``glob(*)`` several; each gets a certificate.
        model: Whose shipped modules are checked, beside random modules on random models.
        runtime: Where; a proof runs in fp32 and in bf16, so `dtype` is refused.
        tuned: Folder of settings that `bench.tune` found, in the place of those of the methods' yaml files.
        prompts: Built-in prompts decoded greedily by the model.
        max_new_tokens: Tokens per prompt.
        draws: Sampled generations per setting of the sampler.
        tokens: Tokens per sampled generation.
        alpha: Chance that a sampling test fails although the method is exact.
        seed: Start of every random stream.
        jobs: Processes; None is one per core for a small model on the CPU, and one otherwise.
        carry: Prove nothing; keep certificates for code that decodes a fixed battery of prompts as before.
        results_dir: Certificates go to its subfolder ``certificates``.
    """

    method: Any = MISSING
    model: ModelConfig = MISSING
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    tuned: str | None = None
    prompts: int = 6
    max_new_tokens: int = 64
    draws: int = 2000
    tokens: int = 4
    alpha: float = 1e-6
    seed: int = 0
    jobs: int | None = None
    carry: bool = False
    results_dir: str = "results"

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise UserError(
                    f"{name} must be at least {least}, got {getattr(self, name)}",
                    f"use {name}={least} or more",
                )
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"jobs must be at least 1, got {self.jobs}", "leave jobs out: one per core")
        if self.runtime.dtype is not None:
            raise UserError(
                f"a proof runs in fp32 and in bf16, got runtime.dtype={self.runtime.dtype}",
                "leave runtime.dtype out",
            )
        if not 0 < self.alpha < 1:
            raise UserError(f"alpha must lie in (0, 1), got {self.alpha}", "use alpha=1e-6")
