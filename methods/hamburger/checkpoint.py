"""HAMburger's tuned model on disk: an ordinary checkpoint folder whose config.json has a ``hamburger`` block.

``config.json`` is the base model's with ``{"hamburger": {"max_group": ..., "micro_layers": ..., ...}}``;
``model.safetensors`` holds the tuned base under ``model.``, the compositional embedder under
``comp_embedder.`` and the micro-step decoder with its stop head under ``micro_step_decoder.``, by the names
of the authors' checkpoint. Loading is strict.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions, build_decoder
from bench.runtime.modules import fitted
from methods.hamburger.model import NEW_PARTS, Embedder, HamburgerShape, MicroModule

BLOCK = "hamburger"
_BASE = "model."
_REMEDY = "train one: python -m bench.train method=hamburger recipe=joint model=...; or set method.weights"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tuned model in memory.

    Args:
        decoder: The tuned base, with a cache of its own.
        embedder: State of `methods.hamburger.model.Embedder`.
        micro: State of `methods.hamburger.model.MicroModule`.
        shape: What the new parts look like.
    """

    decoder: Decoder
    embedder: dict[str, Tensor]
    micro: dict[str, Tensor]
    shape: HamburgerShape

    def weights(self) -> dict[str, int]:
        """Weights by part, all in memory beside the target's own; see `bench.metrics.lossy.PassWeights`."""
        stop = [tensor for name, tensor in self.micro.items() if name.startswith("stop_head.")]
        return {
            "base": self.decoder.parameters,
            "head": self.decoder.lm_head.parameters,
            "micro": _count(self.micro.values()) - _count(stop),
            "stop": _count(stop),
            "merger": _count(self.embedder.values()),
        }


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def read_shape(folder: Path) -> HamburgerShape:
    """The ``hamburger`` block of a checkpoint.

    Raises:
        UserError: If the folder holds no checkpoint, or one of another kind.
    """
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no {name}, so hamburger has no tuned model", _REMEDY)
    block = json.loads((folder / "config.json").read_text()).get(BLOCK)
    names = [field.name for field in fields(HamburgerShape)]
    if not isinstance(block, dict) or any(name not in block for name in names):
        raise UserError(
            f"{folder}/config.json has no {BLOCK!r} block with {', '.join(names)}: it is a plain model",
            _REMEDY,
        )
    return HamburgerShape(**{name: block[name] for name in names})


def load_checkpoint(folder: Path, target: Decoder) -> Checkpoint:
    """Load a tuned model beside the target, on its device, in its precision and for as long sequences.

    Raises:
        UserError: If tensors are missing, left over or misshapen, or the vocabularies differ.
    """
    shape, file = read_shape(folder), folder / "model.safetensors"
    found = load_file(file, device=str(target.device))
    base = {name: found.pop(name).to(target.dtype) for name in list(found) if name.startswith(_BASE)}
    options = RuntimeOptions(target.device, target.dtype, target.capacity, target.tier)
    decoder = build_decoder(AutoConfig.from_pretrained(folder), stripped(base, _BASE), options)
    target.adopt(decoder)
    _check_fit(decoder, target, shape, folder)
    new = fitted(found, _new_shapes(decoder, shape), decoder.embedding, str(file))
    embedder, micro = (stripped(new, prefix) for prefix in NEW_PARTS)
    return Checkpoint(decoder, embedder, micro, shape)


def stripped(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _new_shapes(decoder: Decoder, shape: HamburgerShape) -> dict[str, tuple[int, ...]]:
    """Every tensor that the new parts need, by its name in the file."""
    with torch.device("meta"):
        modules = (Embedder(decoder.config.width, shape), MicroModule(decoder.config, shape))
    return {
        prefix + name: tuple(tensor.shape)
        for prefix, module in zip(NEW_PARTS, modules, strict=True)
        for name, tensor in module.state_dict().items()
    }


def _check_fit(tuned: Decoder, target: Decoder, shape: HamburgerShape, folder: Path) -> None:
    """Refuse a tuned model that speaks another vocabulary, is shorter, or hides old entries."""
    shape.check(tuned.config)
    if tuned.config.vocab != target.config.vocab:
        raise UserError(
            f"the tuned model in {folder} has {tuned.config.vocab} tokens, the target {target.config.vocab}",
            "use one that was tuned from this model",
        )
    if tuned.capacity < target.capacity:
        raise UserError(
            f"the tuned model in {folder} holds {tuned.capacity} tokens, the target {target.capacity}",
            f"set runtime.max_length={tuned.capacity}",
        )
    window = tuned.config.window
    if window is not None and window < tuned.capacity:
        raise UserError(
            f"hamburger's entries stand for several tokens, and a sliding window of {window} counts tokens",
            f"set runtime.max_length={window} or use a model without a window",
        )
