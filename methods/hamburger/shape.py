"""Sizes of HAMburger's new parts and the shapes of their tensors (arXiv 2505.20438).

Shapes: K most tokens of a group, F features, d width, r rank.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.errors import UserError
from bench.runtime.families import DecoderConfig
from bench.runtime.low_rank import INNER, OUTER

MERGER_HEAD_WIDTH = 32

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
        rank: Of the low-rank changes that stand for a tuned base (r); None for a base tuned as a whole.
    """

    max_group: int
    micro_layers: int
    merger_heads: int
    feature_layers: tuple[int, ...]
    micro_mlp_width: int | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "feature_layers", tuple(self.feature_layers))  # a list when read from JSON
        sizes = (self.max_group, self.micro_layers, self.merger_heads, self.micro_mlp_width, self.rank)
        if any(size is not None and size < 1 for size in sizes):
            raise ValueError(f"all sizes must be at least 1, got {self}")
        if list(self.feature_layers) != sorted(set(self.feature_layers)):
            raise ValueError(f"feature_layers must rise strictly, got {self.feature_layers}")

    @classmethod
    def for_model(
        cls,
        config: DecoderConfig,
        max_group: int,
        micro_layers: int,
        micro_mlp_width: int | None = None,
        rank: int | None = None,
    ) -> HamburgerShape:
        """The authors' proportions for any depth and width: features at each quarter, heads of width 32."""
        quarters = sorted({max(1, round(config.layers * part / 4)) - 1 for part in (1, 2, 3, 4)})
        heads = max(1, config.width // MERGER_HEAD_WIDTH)
        return cls(max_group, micro_layers, heads, tuple(quarters), micro_mlp_width, rank)

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

    def change_shapes(self, config: DecoderConfig) -> Shapes:
        """Shapes of the low-rank changes of a base's projections by name; none without a rank.

        The names are those of `bench.runtime.low_rank`.
        """
        if self.rank is None:
            return {}
        shapes: Shapes = {}
        for name, size in _layer_shapes(config).items():
            if name.endswith("_proj.weight"):
                outputs, inputs = size
                for index in range(config.layers):
                    place = f"model.layers.{index}.{name.removesuffix('.weight')}"
                    shapes |= {place + INNER: (self.rank, inputs), place + OUTER: (outputs, self.rank)}
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
