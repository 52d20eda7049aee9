"""HAMburger's tuned model on disk: an ordinary checkpoint folder whose config.json has a ``hamburger`` block.

``config.json`` is the base model's with ``{"hamburger": {"max_group": ..., "micro_layers": ..., ...}}``;
``model.safetensors`` holds the tuned base under ``model.``, the compositional embedder under
``comp_embedder.`` and the micro-step decoder with its stop head under ``micro_step_decoder.``, by the names
of the authors' checkpoint. Loading is strict.

Shapes: K most tokens of a group, F features, d width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.errors import UserError
from bench.runtime.cache import KVCache
from bench.runtime.checkpoint_files import read_json
from bench.runtime.decoder import Decoder
from bench.runtime.families import DecoderConfig
from bench.runtime.loading import RuntimeOptions, build_decoder, load_config
from bench.runtime.modules import fitted
from bench.runtime.read_weights import read_weights
from bench.runtime.stored_tensors import read_file, usable

BLOCK = "hamburger"
NEW_PARTS = ("comp_embedder.", "micro_step_decoder.")
"""Prefixes of the tensors that a plain checkpoint lacks."""
MERGER_HEAD_WIDTH = 32
_BASE = "model."
_FIX = "train one: python -m bench.train method=hamburger recipe=joint model=...; or set method.weights"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class HamburgerShape:
    """Sizes of the new parts; stored as the ``hamburger`` block of a checkpoint's config.json.

    Args:
        max_group: Most tokens of a group (K).
        micro_layers: Layers of the micro-step decoder.
        merger_heads: Attention heads of the merger.
        feature_layers: Layers whose outputs feed the micro-step decoder, shallow to deep (F of them); the
            last one is the model's last layer and is taken after the final norm.
        micro_mlp_width: Inner width of the micro-step decoder's MLPs; None is the model's own.
    """

    max_group: int
    micro_layers: int
    merger_heads: int
    feature_layers: tuple[int, ...]
    micro_mlp_width: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "feature_layers", tuple(self.feature_layers))  # a list when read from JSON
        if self.max_group < 1 or self.micro_layers < 1 or self.merger_heads < 1:
            raise ValueError(f"max_group, micro_layers and merger_heads must be at least 1, got {self}")
        if list(self.feature_layers) != sorted(set(self.feature_layers)):
            raise ValueError(f"feature_layers must rise strictly, got {self.feature_layers}")

    @classmethod
    def for_model(
        cls, config: DecoderConfig, max_group: int, micro_layers: int, micro_mlp_width: int | None = None
    ) -> HamburgerShape:
        """The authors' proportions for any depth and width: features at each quarter, heads of width 32."""
        quarters = sorted({max(1, round(config.layers * part / 4)) - 1 for part in (1, 2, 3, 4)})
        heads = max(1, config.width // MERGER_HEAD_WIDTH)
        return cls(max_group, micro_layers, heads, tuple(quarters), micro_mlp_width)

    def check(self, config: DecoderConfig) -> None:
        """Refuse a shape that does not fit this model.

        Raises:
            UserError: If the deepest feature is not the model's last layer, or the heads do not divide the
                width.
        """
        if not self.feature_layers or self.feature_layers[-1] != config.layers - 1:
            raise UserError(
                f"the weights read features of layers {list(self.feature_layers)}, this model has "
                f"{config.layers} layers",
                "use weights that were trained for this model",
            )
        if config.width % self.merger_heads:
            raise UserError(
                f"merger_heads must divide the width {config.width}, got {self.merger_heads}",
                "use weights that were trained for this model",
            )

    @property
    def taps(self) -> tuple[int, ...]:
        """`feature_layers` as taps of `Decoder.run_layers`: tap l + 1 is the output of layer l."""
        return tuple(layer + 1 for layer in self.feature_layers)

    def micro_config(self, config: DecoderConfig) -> DecoderConfig:
        """The model's config with the layers of the micro-step decoder instead of its own."""
        return replace(config.plain_layers(), mlp_width=self.micro_mlp_width or config.mlp_width)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "feature_layers": list(self.feature_layers)}

    def embedder_shapes(self, width: int) -> Shapes:
        """Shapes of the compositional embedder's tensors by name (`methods.hamburger.module.Embedder`)."""
        shapes: Shapes = {"merger.pos": (self.max_group, width // 2)}
        for name in ("merger.q_proj", "out_proj"):
            shapes |= _linear_shapes(name, width, width, has_bias=True)
        for name in ("merger.k_proj", "merger.v_proj"):  # of a token's embedding and that of its place
            shapes |= _linear_shapes(name, width, width + width // 2, has_bias=True)
        return shapes

    def micro_shapes(self, config: DecoderConfig) -> Shapes:
        """Shapes of the micro-step decoder's tensors by name (`methods.hamburger.module.MicroModule`)."""
        shapes: Shapes = {}
        for index in range(self.micro_layers):
            layer = _layer_shapes(self.micro_config(config))
            shapes |= {f"decoders.{index}.{name}": size for name, size in layer.items()}
        for index, outputs in ((0, config.width), (2, config.width), (4, 1)):  # activations between them
            shapes |= _linear_shapes(f"stop_head.{index}", outputs, config.width, has_bias=True)
        return shapes


def _layer_shapes(config: DecoderConfig) -> Shapes:
    """Shapes of a layer of the model's own sizes, its projections not fused."""
    width, mlp = config.width, config.mlp_width
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    norms = {"input_layernorm": width, "post_attention_layernorm": width}
    if config.qk_norm:
        norms |= {"self_attn.q_norm": config.head_dim, "self_attn.k_norm": config.head_dim}
    shapes: Shapes = {f"{name}.weight": (size,) for name, size in norms.items()}
    for name, outputs in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        shapes |= _linear_shapes(f"self_attn.{name}", outputs, width, config.qkv_bias)
    shapes |= _linear_shapes("self_attn.o_proj", width, queries, config.output_bias)
    for name in ("gate_proj", "up_proj"):
        shapes |= _linear_shapes(f"mlp.{name}", mlp, width, config.mlp_bias)
    return shapes | _linear_shapes("mlp.down_proj", width, mlp, config.mlp_bias)


def _linear_shapes(name: str, outputs: int, inputs: int, has_bias: bool) -> Shapes:
    weight: Shapes = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if has_bias else weight


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
    own = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_BASE)}
    base = usable(own, file, target.device, target.dtype)
    options = RuntimeOptions(target.device, target.dtype, target.capacity, target.tier)
    decoder = build_decoder(load_config(folder), _part(base, _BASE), options)
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
    tensors = {name: tensor.detach().to(untuned.dtype) for name, tensor in state.items()}
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
