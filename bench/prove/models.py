"""The models of one proof, each made once for all methods and controls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from bench.compose.components import Component, resolve_path
from bench.compose.workbench import options_for, settle_threads
from bench.prove.config import ProveConfig
from bench.prove.sampling import Toy
from bench.prove.subject import first_fit
from bench.prove.targets import CONTEXT, Target, model_target, random_target
from bench.runtime.decoder import Decoder, Tier
from bench.runtime.loading import RuntimeOptions
from methods.core.base import Method

Precision = Literal["fp32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
RANDOM_TOKENS = 40
"""Tokens decoded by a random model after each of its prompts."""


class Models:
    """Makes each model at its first use.

    Args:
        config: Which one, where, and how much is decoded.

    Raises:
        UserError: If there is no such device.
    """

    def __init__(self, config: ProveConfig) -> None:
        self._config = config
        self._options = options_for(config.runtime, config.model)
        self.device = self._options.device
        self._configured: dict[Precision, Target] = {}
        self._random: dict[tuple[str, int, Precision], Target] = {}
        self._toys: dict[int, Toy] = {}

    @property
    def name(self) -> str:
        """The configured model's."""
        return self._config.model.name or Path(resolve_path(self._config.model.path)).name

    @property
    def tiers(self) -> dict[str, str]:
        """The tier that passes run on, by precision as records name it."""
        return {str(DTYPES[name]).removeprefix("torch."): self._tier(name) for name in DTYPES}

    def configured(self, precision: Precision) -> Target:
        """The configured model with built-in prompts.

        Raises:
            UserError: If it cannot be loaded.
        """
        if precision not in self._configured:
            self._configured[precision] = model_target(
                self.name,
                self._config.model,
                replace(self._options, dtype=DTYPES[precision], tier=self._tier(precision)),
                count=self._config.prompts,
                new=self._config.max_new_tokens,
            )
            self._settle(self._configured[precision].decoder)
        return self._configured[precision]

    def random(self, family: str, depth: int, precision: Precision) -> Target:
        """A random model of a family."""
        key = family, depth, precision
        if key not in self._random:
            options = self._small(precision)
            self._random[key] = random_target(
                family, depth, options, new=RANDOM_TOKENS, seed=self._config.seed
            )
            self._settle(self._random[key].decoder)
        return self._random[key]

    def fitted(self, component: Component, family: str, precision: Precision) -> tuple[Method, Target]:
        """A method with random modules on the shallowest random model of a family that it accepts.

        Raises:
            UserError: If it accepts none.
        """

        def build(depth: int) -> Target:
            return self.random(family, depth, precision)

        depth, method = first_fit(component, lambda depth: build(depth).decoder, self._config.seed)
        return method, build(depth)

    def toy(self, depth: int) -> Toy:
        """A random model whose answers are enumerated."""
        if depth not in self._toys:
            config = self._config
            self._toys[depth] = Toy(
                depth, self._small("fp32"), draws=config.draws, tokens=config.tokens, seed=config.seed
            )
            self._settle(self._toys[depth].decoder)
        return self._toys[depth]

    def _settle(self, decoder: Decoder) -> None:
        """A method runs with the threads that a benchmark of this model runs with."""
        settle_threads(decoder, self._config.runtime.threads)

    def _small(self, precision: Precision) -> RuntimeOptions:
        return RuntimeOptions(self.device, DTYPES[precision], CONTEXT, self._tier(precision))

    def _tier(self, precision: Precision) -> Tier:
        """The tier that a benchmark takes; compiled passes are there for fp32 alone."""
        tier = self._options.tier
        return "static" if tier == "compiled" and precision != "fp32" else tier
