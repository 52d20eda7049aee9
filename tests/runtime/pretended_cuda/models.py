"""Small random models on any device, the pretended one among them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from bench.runtime.decoder import Decoder, Tier
from bench.runtime.loading import RuntimeOptions, build_decoder
from tests.methods.small import config_of

VOCABULARY, CAPACITY = 24, 256
SHARPNESS = 8.0
"""Of the head, so that random drafts are confident and last several steps."""


def decoder_on(
    depth: int,
    device: torch.device,
    tier: Tier,
    family: str = "llama",
    layer_devices: tuple[torch.device, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """The random model with this many layers, the same on every device; its layers may lie elsewhere."""
    config, values = _random_model(depth, family)
    options = RuntimeOptions(device, dtype, CAPACITY, tier, layer_devices=layer_devices)
    tensors = {name: value.to(dtype, copy=True).to(options.place(name)) for name, value in values.items()}
    return build_decoder(config, tensors, options)


@cache
def _random_model(depth: int, family: str) -> tuple[Any, dict[str, Tensor]]:
    """The configuration and weights, which nobody changes."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config_of(family, vocab_size=VOCABULARY, num_hidden_layers=depth)
    )
    values = {name: value.clone() for name, value in model.state_dict().items()}
    values["lm_head.weight"] *= SHARPNESS
    return model.config, values
