"""Models of a given shape with random weights: what decoding costs, without a download.

Speed depends on shapes, hardly on values; acceptance and text depend on values and mean nothing here. Any
folder with a ``config.json`` of a supported family will do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions, build_decoder, load_config

SPREAD = 0.02
"""Standard deviation of a weight, as checkpoints are initialised."""
_THIN = 16


def random_decoder(folder: Path, options: RuntimeOptions, seed: int = 0) -> Decoder:
    """A decoder of the shape that ``config.json`` in `folder` tells; weight files are not looked at.

    Raises:
        UserError: If there is no such file or its architecture is not supported.
    """
    config = load_config(folder)
    return build_decoder(config, random_tensors(config, options, seed), options)


def thin_decoder(depth: int, options: RuntimeOptions) -> Decoder:
    """A Llama of `depth` layers and next to no width: a pass through it is all dispatch and no arithmetic."""
    config = LlamaConfig(
        vocab_size=_THIN,
        hidden_size=_THIN,
        intermediate_size=_THIN,
        num_hidden_layers=depth,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=options.max_length,
        architectures=["LlamaForCausalLM"],
    )
    return build_decoder(config, random_tensors(config, options, 0), options)


def empty_decoder(config: Any, options: RuntimeOptions) -> Decoder:  # noqa: ANN401
    """A decoder of tensors without storage (torch's meta device): it can be counted, not run.

    Args:
        config: The transformers configuration.
        options: Dtype and length; the device is not looked at.
    """
    meta = RuntimeOptions(torch.device("meta"), options.dtype, options.max_length)
    with meta.device:
        empty = AutoModelForCausalLM.from_config(config).state_dict()  # type: ignore[no-untyped-call]
        return build_decoder(config, {name: one.to(options.dtype) for name, one in empty.items()}, meta)


def random_tensors(config: Any, options: RuntimeOptions, seed: int) -> dict[str, Tensor]:  # noqa: ANN401
    """Checkpoint tensors by name: normal matrices, norms of one, biases of zero, the same for a seed."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config).state_dict()  # type: ignore[no-untyped-call]
    generator = torch.Generator(options.device).manual_seed(seed)
    return {name: _draw(name, one.shape, options, generator) for name, one in empty.items()}


def _draw(name: str, shape: torch.Size, options: RuntimeOptions, generator: torch.Generator) -> Tensor:
    tensor = torch.empty(shape, dtype=options.dtype, device=options.device)
    if len(shape) > 1:
        return tensor.normal_(0.0, SPREAD, generator=generator)
    return tensor.fill_(float("norm" in name))
