"""Small random models on any device, the pretended one among them."""

from __future__ import annotations

import torch
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
) -> Decoder:
    """The random model with this many layers, the same on every device; its layers may lie elsewhere."""
    torch.manual_seed(0)
    config = config_of(family, vocab_size=VOCABULARY, num_hidden_layers=depth)
    model = AutoModelForCausalLM.from_config(config)
    values = {name: value.clone() for name, value in model.state_dict().items()}
    values["lm_head.weight"] *= SHARPNESS
    options = RuntimeOptions(device, torch.float32, CAPACITY, tier, layer_devices=layer_devices)
    tensors = {name: value.to(options.place(name)) for name, value in values.items()}
    return build_decoder(model.config, tensors, options)
