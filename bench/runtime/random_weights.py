"""Models of a given shape with random weights, to measure what decoding costs without a download.

Speed depends on shapes and hardly on values. Acceptance and text depend on values, so they mean nothing here.
Any folder with a ``config.json`` of a supported family will do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions, build_decoder, load_config, over_devices

SPREAD = 0.02
"""Standard deviation of a weight, as checkpoints are initialised."""
_THIN = 16


def random_decoder(folder: Path, options: RuntimeOptions, seed: int = 0) -> Decoder:
    """A decoder of the shape given by ``config.json`` in `folder`; weight files are ignored.

    Raises:
        UserError: If there is no such file or its architecture is not supported.
    """
    config = load_config(folder)
    options = over_devices(
        options, config, {name: empty.shape for name, empty in _empty_tensors(config).items()}
    )
    return build_decoder(config, random_tensors(config, options, seed), options)


def thin_decoder(depth: int, options: RuntimeOptions) -> Decoder:
    """A Llama of `depth` layers and almost no width: its passes take dispatch time, not arithmetic."""
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
    """A decoder of tensors without storage (torch's meta device): its weights can be counted, but it cannot
    run.

    Args:
        config: The transformers configuration.
        options: Dtype and length; the device is ignored.
    """
    meta = RuntimeOptions(torch.device("meta"), options.dtype, options.max_length)
    with meta.device:
        tensors = {name: tensor.to(options.dtype) for name, tensor in _empty_tensors(config).items()}
        return build_decoder(config, tensors, meta)


def random_tensors(config: Any, options: RuntimeOptions, seed: int) -> dict[str, Tensor]:  # noqa: ANN401
    """Checkpoint tensors by name: normally distributed matrices, norms of one, biases of zero.

    The same seed gives the same tensors.
    """
    devices = {options.device, *options.layer_devices}
    generators = {device: torch.Generator(device).manual_seed(seed) for device in devices}
    shapes = {name: tensor.shape for name, tensor in _empty_tensors(config).items()}
    return {
        name: _draw(name, shape, options.dtype, generators[options.place(name)])
        for name, shape in shapes.items()
    }


def _empty_tensors(config: Any) -> dict[str, Tensor]:  # noqa: ANN401
    """Checkpoint tensors by name, without storage."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    tensors: dict[str, Tensor] = model.state_dict()
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]  # the embedding under a second name
    return tensors


def _draw(name: str, shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype, device=generator.device)
    if len(shape) > 1:
        return tensor.normal_(0.0, SPREAD, generator=generator)
    return tensor.fill_(float("norm" in name))
