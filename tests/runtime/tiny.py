"""The embedded model with any method's shipped modules, as a run would build them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from bench.compose.settings import Settings
from bench.compose.workbench import find_target
from bench.runtime.decoder import Decoder
from methods.core.base import Method
from tests.harness import composed_settings

PROMPT = 120
"""A little below the smallest number of cache slots that recordings read: answers cross it."""


def settings(method: str, *overrides: str) -> Settings:
    return composed_settings(f"method={method}", "model=tiny", *overrides)


def built(method: str, decoder: Decoder, *overrides: str) -> Method:
    made: Method = settings(method, *overrides).method.build()
    made.attach(decoder)
    return made


@cache
def tiny() -> tuple[Decoder, Tensor]:
    """The embedded model and the ids of a prompt."""
    chosen = composed_settings("method=autoregressive", "model=tiny", "runtime.tier=static")
    target = find_target(chosen.model, chosen.runtime)
    return target.load(1), torch.cat(target.prompts(6))[:PROMPT]
