"""A model and a method's modules built of tensors without storage, for what no file states. Loads torch."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from transformers import AutoConfig

from bench.compose.schema import ModelConfig, RuntimeConfig
from bench.compose.settings import Settings
from bench.compose.workbench import options_for
from bench.errors import UserError
from bench.plan.devices import Gpu
from bench.plan.outlook import estimate
from bench.plan.size import KNOWN_SHAPES, LLAMA, model_folder
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions, load_config
from bench.runtime.modules import memory_bytes
from bench.runtime.random_weights import empty_decoder
from bench.show.layout import byte_size
from methods.core.base import FullTrainable, Method, Trainable


def require_room_for_all(settings: Settings) -> None:
    """Refuse methods that do not fit into memory together, before anything is loaded.

    Counted is what `bench.plan.size` counts: weights and their copies, modules, caches, recorded passes. The
    rows of a prefill come on top.

    Raises:
        UserError: If they need more memory than there is, with the sum.
    """
    size, options = estimate(settings).size, options_for(settings.runtime, settings.model)
    room = sum(map(memory_bytes, options.spread or (options.device,)))
    if size is None or size.total_bytes <= room:
        return
    parts = (
        f"{byte_size(size.weight_bytes)} of weights, {byte_size(size.module_bytes)} of modules, "
        f"{byte_size(size.cache_bytes)} of keys and values, {byte_size(size.buffers.total_bytes)} of buffers"
    )
    raise UserError(
        f"the {len(settings.methods)} methods need {byte_size(size.total_bytes)} together ({parts}), "
        f"and {options.device.type} has {byte_size(room)}",
        "name fewer methods, or measure them apart: -m method=A,B launch=isolated",
    )


def planned_options(runtime: RuntimeConfig, model: ModelConfig, gpu: Gpu | None) -> RuntimeOptions:
    """Where and how the model would lie in memory, on this machine or on a GPU that it may not have."""
    options = options_for(replace(runtime, devices=1), model)  # a plan needs no GPU to be here
    if gpu is None or runtime.dtype is not None:
        return options
    dtype = getattr(torch, model.dtype or "bfloat16")
    return RuntimeOptions(options.device, dtype, options.max_length)


def find_empty(model: ModelConfig, options: RuntimeOptions) -> tuple[Decoder | None, bool]:
    """The model without storage, None if its shape is unknown; and whether it is on this machine."""
    folder = model_folder(model)
    return _empty(folder, model.path, options), folder is not None


@cache
def _empty(folder: Path | None, path: str, options: RuntimeOptions) -> Decoder | None:
    """The model without storage, cached for the other runs of a sweep; None if its shape is unknown."""
    config = _shape(folder, path)
    return None if config is None else empty_decoder(config, options)


def _shape(folder: Path | None, path: str) -> Any:  # noqa: ANN401 - a transformers configuration
    """Configuration of a checkpoint: its own, or the one shipped for its name; None without either."""
    if folder is not None:
        return load_config(folder)
    known: Any = OmegaConf.to_container(OmegaConf.load(KNOWN_SHAPES))
    for entry in known:
        if path in entry["checkpoints"]:
            return AutoConfig.for_model(**{**LLAMA, **entry["shape"]})
    return None


def new_module_shapes(method: Method, decoder: Decoder) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a method's modules as training would make them, by name."""
    with decoder.device:
        if isinstance(method, Trainable):
            made = method.trainer().new_module(decoder)
        elif isinstance(method, FullTrainable):
            made = method.model_trainer().new_model(decoder)
        else:
            return {}  # fitted to the model but without tensors, such as a set of layers to skip
    return {name: tuple(tensor.shape) for name, tensor in made.named_parameters()}
