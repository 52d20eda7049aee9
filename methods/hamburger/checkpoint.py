"""HAMburger's tuned model on disk: an ordinary checkpoint folder whose config.json has a ``hamburger`` block.

``config.json`` is the base model's with ``{"hamburger": {"max_group": ..., "micro_layers": ..., ...}}``;
``model.safetensors`` holds the tuned base under ``model.``, the compositional embedder under
``comp_embedder.`` and the micro-step decoder with its stop head under ``micro_step_decoder.``, by the names
of the authors' checkpoint. Loading is strict.

Where the block has a ``rank``, low-rank changes of the base's projections stand in the place of the base
(LoRA, arXiv 2106.09685): ``lora_A`` [r, inputs] and ``lora_B`` [outputs, r] for a rank r. The tuned base is
the target's own weights with ``lora_B lora_A`` added, so the file fits the weights that it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from torch import Tensor

from bench.errors import UserError
from bench.runtime.cache import KVCache
from bench.runtime.checkpoint_files import read_json
from bench.runtime.decoder import Decoder
from bench.runtime.layers import read_weights
from bench.runtime.loading import RuntimeOptions, build_decoder, load_config
from bench.runtime.low_rank import merged
from bench.runtime.modules import fitted
from bench.runtime.plain_weights import plain_weights
from bench.runtime.stored_tensors import read_file, usable
from methods.hamburger.shape import HamburgerShape

BLOCK = "hamburger"
NEW_PARTS = ("comp_embedder.", "micro_step_decoder.")
"""Prefixes of the tensors that a plain checkpoint lacks."""
_BASE = "model."
_FIX = "train one: python -m bench.train method=hamburger recipe=joint model=...; or set method.weights"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tuned model in memory.

    Args:
        decoder: The tuned base, with a cache of its own.
        embedder: Tensors of the compositional embedder by name.
        micro: Tensors of the micro-step decoder and its stop head by name.
        shape: Sizes of the new parts.
    """

    decoder: Decoder
    embedder: dict[str, Tensor]
    micro: dict[str, Tensor]
    shape: HamburgerShape

    def weights(self) -> dict[str, int]:
        """Number of weights by part, all in memory next to the target's own.

        `bench.metrics.lossy.PassWeights` says what the parts mean.
        """
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
            raise UserError(f"{folder} holds no {name}, so hamburger has no tuned model", _FIX)
    block = read_json(folder / "config.json").get(BLOCK)
    names = [field.name for field in fields(HamburgerShape) if field.default is MISSING]
    if not isinstance(block, dict) or any(name not in block for name in names):
        raise UserError(
            f"{folder}/config.json has no {BLOCK!r} block with {', '.join(names)}: it is a plain model", _FIX
        )
    try:
        known = {field.name for field in fields(HamburgerShape)}
        return HamburgerShape(**{name: value for name, value in block.items() if name in known})
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder}/config.json: the {BLOCK!r} block is damaged: {error}", _FIX) from error


def load_checkpoint(folder: Path, target: Decoder) -> Checkpoint:
    """Load a tuned model on the target's device, in its precision and for sequences of the same length.

    Raises:
        UserError: If tensors are missing, left over or misshapen, or the vocabularies differ.
    """
    shape, file = read_shape(folder), folder / "model.safetensors"
    tensors = read_file(file, target.device)
    own = _part({name: tensors.pop(name) for name in list(tensors) if name.startswith(_BASE)}, _BASE)
    if shape.rank is None:
        base = usable(own, file, target.device, target.dtype)
    else:
        changes = fitted(own, shape.change_shapes(target.config), target.embedding, str(file))
        base = merged({**plain_weights(target), **changes})
    options = RuntimeOptions(target.device, target.dtype, target.capacity, target.tier)
    decoder = build_decoder(load_config(folder), base, options)
    target.adopt(decoder)
    _check_fit(decoder, target, shape, folder)
    expected = (shape.embedder_shapes(decoder.config.width), shape.micro_shapes(decoder.config))
    new = fitted(
        tensors,
        {
            prefix + name: size
            for prefix, part in zip(NEW_PARTS, expected, strict=True)
            for name, size in part.items()
        },
        decoder.embedding,
        str(file),
    )
    embedder, micro = (_part(new, prefix) for prefix in NEW_PARTS)
    return Checkpoint(decoder, embedder, micro, shape)


def checkpoint_of(
    state: Mapping[str, Tensor], shape: HamburgerShape, untuned: Decoder, capacity: int
) -> Checkpoint:
    """A model in training as it is now, ready to decode.

    Args:
        state: Its tensors by the names of the file.
        shape: Sizes of its new parts.
        untuned: The model it started from; gives the precision and the rotary tables.
        capacity: Longest sequence in tokens.
    """
    tensors = {name: tensor.detach().to(untuned.dtype) for name, tensor in merged(state).items()}
    config = untuned.config
    weights = read_weights(config, _part(tensors, _BASE), untuned.device)
    room = (config.layers, config.kv_heads, capacity, config.head_dim, untuned.dtype, untuned.device)
    embedder, micro = (_part(tensors, prefix) for prefix in NEW_PARTS)
    return Checkpoint(Decoder(weights, KVCache(*room), untuned.placement), embedder, micro, shape)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_fit(tuned: Decoder, target: Decoder, shape: HamburgerShape, folder: Path) -> None:
    """Refuse a tuned model with another vocabulary, less capacity, or a window that hides old entries."""
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
    if tuned.placement.follows_length:
        raise UserError(
            "hamburger's entries stand for several tokens, and the rotary embedding of this model changes "
            "with the number of tokens",
            "set runtime.max_length to the model's original context, or use a model without such scaling",
        )
    window = tuned.config.shortest_window
    if window is not None and window < tuned.capacity:
        raise UserError(
            f"hamburger's entries stand for several tokens, and a sliding window of {window} counts tokens",
            f"set runtime.max_length={window} or use a model without a window",
        )
