"""The models of one proof, each made once for all methods and controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import torch

from bench.compose.components import Component, resolve_path
from bench.compose.workbench import options_for, settle_threads
from bench.errors import UserError
from bench.prove.certificates import tier_words
from bench.prove.config import ProveConfig
from bench.prove.sampling import Toy
from bench.prove.subject import first_fit
from bench.prove.targets import CONTEXT, SPARSE, Target, model_target, on_tier, random_target
from bench.runtime.decoder import Decoder, Tier
from bench.runtime.loading import RuntimeOptions
from methods.core.base import Method

Place = TypeVar("Place", Target, Toy)
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
        self._toys: dict[tuple[str, int], Toy] = {}

    @property
    def name(self) -> str:
        """The configured model's."""
        return self._config.model.name or Path(resolve_path(self._config.model.path)).name

    def tier(self, precision: Precision) -> Tier:
        """The tier that a benchmark takes; compiled passes are there for fp32 alone."""
        tier = self._options.tier
        return "static" if tier == "compiled" and precision != "fp32" else tier

    @property
    def tiers(self) -> dict[str, str]:
        """The tier that passes run on, by precision as records name it; see `certificates.tier_words`."""
        words = {}
        for options in map(self._options_in, DTYPES):
            head = "int8" if options.drafts_in_int8 else None
            words[str(options.dtype).removeprefix("torch.")] = tier_words(options.tier, head)
        return words

    def configured(self, precision: Precision) -> Target:
        """The configured model with built-in prompts.

        Raises:
            UserError: If it cannot be loaded.
        """
        if precision not in self._configured:
            self._configured[precision] = model_target(
                self.name,
                self._config.model,
                self._options_in(precision),
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

        One that needs mixtures of experts gets a model of `SPARSE` in place of a llama.

        Raises:
            UserError: If it accepts none.
        """
        kinds = (family, SPARSE) if family == "llama" else (family,)
        return self._first_fit(component, [partial(self.random, kind, precision=precision) for kind in kinds])

    def enumerated(self, component: Component) -> tuple[Method, Toy]:
        """A method with random modules on the smallest enumerated model that it accepts.

        Raises:
            UserError: If it accepts none.
        """
        return self._first_fit(component, [self.toy, partial(self.toy, family=SPARSE)])

    def toy(self, depth: int, family: str = "llama") -> Toy:
        """A random model whose answers are enumerated."""
        key = family, depth
        if key not in self._toys:
            config = self._config
            self._toys[key] = Toy(
                *key, self._small("fp32"), draws=config.draws, tokens=config.tokens, seed=config.seed
            )
            self._settle(self._toys[key].decoder)
        return self._toys[key]

    def _first_fit(
        self, component: Component, kinds: Sequence[Callable[[int], Place]]
    ) -> tuple[Method, Place]:
        """The method on the shallowest model that it accepts, of the first kind that it accepts at all."""
        refusals = []
        for make in kinds:
            try:
                depth, method = first_fit(component, lambda depth: make(depth).decoder, self._config.seed)  # noqa: B023
            except UserError as refusal:
                refusals.append(refusal)
            else:
                return method, make(depth)
        raise refusals[0]

    def _settle(self, decoder: Decoder) -> None:
        """A method runs with the threads that a benchmark of this model runs with."""
        settle_threads(decoder, self._config.runtime.threads)

    def _small(self, precision: Precision) -> RuntimeOptions:
        return replace(self._options_in(precision), max_length=CONTEXT, spread=())

    def _options_in(self, precision: Precision) -> RuntimeOptions:
        return on_tier(replace(self._options, dtype=DTYPES[precision]), self.tier(precision))
