"""Reads HAMburger-1B as published: a Lightning checkpoint, or its gpt-fast conversion (arXiv 2505.20438).

A Lightning file holds the weights under ``state_dict``, those of the base under ``model.model.``; the result
keeps these names. The embedding is in it up to three times: the copies must be equal and are left out. Group
size and number of micro layers follow from the tensors; the number of merger heads and the feature layers are
in the authors' proportions (64 heads, layers 3, 7, 11, 15 of 16).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.convert.gpt_fast import is_gpt_fast, renamed
from bench.convert.published import only_tensors
from bench.errors import UserError
from bench.runtime.families import DecoderConfig
from bench.runtime.modules import require_fit
from methods.hamburger.module import HamburgerModel
from methods.hamburger.shape import HamburgerShape

log = logging.getLogger(__name__)

FILES = ("*.ckpt", "model.pth", "*.safetensors")
EMBEDDING = "model.model.embed_tokens.weight"
LM_HEAD = "model.lm_head.weight"
_COPY = "comp_embedder.embedding.weight"
_TEACHER = "teacher."
_POSITIONS = "comp_embedder.merger.pos"
_MICRO = "micro_step_decoder.decoders."
_FIX = "use HAMburger-1B as published, with model=llama3.2_1b_instruct"


def convert_hamburger(
    published: Mapping[str, Any], shape: DecoderConfig, file: Path
) -> tuple[dict[str, Tensor], HamburgerShape]:
    """Tensors of the tuned model under our names, and the shape of its new parts.

    Args:
        published: Content of the file.
        shape: Shape of the base model.
        file: Path of the file, for messages.

    Raises:
        UserError: If anything is missing, left over, misshapen or contradictory.
    """
    state, settings = published.get("state_dict", published), published.get("hyper_parameters", {})
    if not isinstance(state, Mapping) or not isinstance(settings, Mapping):
        raise UserError(f"{file}: state_dict or hyper_parameters is damaged", _FIX)
    tensors = only_tensors(state, file)
    if is_gpt_fast(tensors):
        tensors = renamed(tensors, shape)
    _drop_teacher(tensors, file)
    _drop_copies(tensors, shape, file)
    parts = HamburgerShape.for_model(shape, _max_group(tensors), _micro_layers(tensors))
    with torch.device("meta"):
        expected = HamburgerModel(shape, parts).state_dict()
    require_fit(tensors, {name: tuple(tensor.shape) for name, tensor in expected.items()}, str(file), _FIX)
    _check_steps(settings, parts, file)
    return tensors, parts


def _drop_teacher(tensors: dict[str, Tensor], file: Path) -> None:
    """Remove the untuned model, which a checkpoint of a distillation holds as well."""
    names = [name for name in tensors if name.startswith(_TEACHER)]
    for name in names:
        del tensors[name]
    if names:
        log.info("%s: left out %d tensors of the distillation's teacher", file, len(names))


def _drop_copies(tensors: dict[str, Tensor], shape: DecoderConfig, file: Path) -> None:
    copies = [_COPY, LM_HEAD] if shape.tied_head else [_COPY]
    for name in copies:
        copy, original = tensors.pop(name, None), tensors.get(EMBEDDING)
        if copy is not None and original is not None and not torch.equal(copy, original):
            raise UserError(f"{file}: {name} differs from {EMBEDDING}, whose copy it must be", _FIX)


def _max_group(tensors: Mapping[str, Tensor]) -> int:
    positions = tensors.get(_POSITIONS)
    if positions is None or positions.dim() != 2:
        return 1  # any size will do: `require_fit` then names the tensor
    return positions.shape[0]


def _micro_layers(tensors: Mapping[str, Tensor]) -> int:
    numbers = {name.removeprefix(_MICRO).partition(".")[0] for name in tensors if name.startswith(_MICRO)}
    return max(1, len(numbers))


def _check_steps(settings: Mapping[str, Any], parts: HamburgerShape, file: Path) -> None:
    steps = settings.get("max_steps")
    if steps not in (None, parts.max_group):
        raise UserError(
            f"{file} says max_steps {steps}, and {_POSITIONS} is for groups of {parts.max_group}", _FIX
        )
