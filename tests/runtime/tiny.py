"""The embedded model with any method's shipped modules, as a run would build them."""

from __future__ import annotations

from functools import cache

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from bench.config import Settings, register_schema, settings_from
from bench.runtime.decoder import Decoder
from bench.workbench import find_target
from methods.base import Method
from tests.harness import CONF

PROMPT = 120
"""A little below the smallest number of cache slots that recordings read: answers cross it."""


def settings(method: str) -> Settings:
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("bench", [f"method={method}", "model=tiny"], return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return settings_from(composed, choices)


def built(method: str, decoder: Decoder) -> Method:
    made: Method = settings(method).method.build()
    made.attach(decoder)
    return made


@cache
def tiny() -> tuple[Decoder, Tensor]:
    """The embedded model and the ids of a prompt."""
    chosen = settings("autoregressive")
    target = find_target(chosen.model, chosen.runtime)
    return target.load(1), torch.cat(target.prompts(6))[:PROMPT]
