"""The layers of a decoder: their weights as its passes read them, and how a checkpoint's tensors become them.

The tensors are read by whichever names and norms their family has.

Shapes: d width, H query heads, Hkv key/value heads, D head width, f MLP width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UserError
from bench.runtime.families import DecoderConfig
from bench.runtime.linear import Linear
from bench.runtime.modules import CheckpointTensors, TensorStore
from bench.runtime.moe import Moe
from bench.runtime.moe_weights import read_moe
from bench.runtime.residual import PLAIN, Residual

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_NORMS = {
    (True, False): ("input_layernorm", None, "post_attention_layernorm", None),
    (True, True): (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    (False, True): (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
}
"""Names of the norms before and after attention, before and after the MLP, by whether a family has them."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Weights of an attention sub-layer; q, k and v are fused along the outputs."""

    norm: Tensor | None  # [d]
    qkv: Linear  # [(H + 2 Hkv) D, d]
    o: Linear  # [d, H D]
    query_norm: Tensor | None = None  # [D] for each head, or [H D] for a row
    key_norm: Tensor | None = None  # [D] or [Hkv D]
    residual: Residual = PLAIN
    score_scale: float | None = None  # 1 / sqrt(D) by default
    is_alternate: bool = False  # the layer places rows as `Rows.alternate`


@dataclass(frozen=True, slots=True)
class Mlp:
    """Weights of a gated MLP sub-layer; gate and up are fused along the outputs."""

    norm: Tensor | None  # [d]
    gate_up: Linear  # [2 f, d]
    down: Linear  # [d, f]
    residual: Residual = PLAIN


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer; a drafter's may have no MLP."""

    attention: Attention
    mlp: Mlp | Moe | None

    def projections(self) -> Iterator[Linear]:
        """Its two or four projections, in the order of the arithmetic; a mixture of experts is left out."""
        yield from (self.attention.qkv, self.attention.o)
        if isinstance(self.mlp, Mlp):
            yield from (self.mlp.gate_up, self.mlp.down)


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's shape and all its weights."""

    config: DecoderConfig
    embedding: Tensor  # [V, d]
    layers: Sequence[Layer]
    final_norm: Tensor  # [d]; of the norm before the head
    lm_head: Linear  # [V, d]
    drafts_in_int8: bool = False  # whether `bench.runtime.sampling.DraftHead` rounds it to 8 bits


def dense(mlp: Mlp | Moe | None) -> Mlp | None:
    """The given MLP, for code that cannot run a mixture of experts.

    Raises:
        UserError: If it is one.
    """
    if isinstance(mlp, Moe):
        raise UserError(
            "this model has mixtures of experts, and the method or tier works on layers with ordinary MLPs",
            "use a model without experts, or a method without trained layers, such as layerskip or medusa",
        )
    return mlp


def read_weights(shape: DecoderConfig, tensors: TensorStore, device: torch.device) -> Weights:
    """The weights of a model from its named tensors, which are removed from the dictionary as they are used.

    Raises:
        UserError: If the tensors do not fit the shape.
    """
    source = CheckpointTensors(tensors, shape.norm_offset, device)
    names = set(tensors)
    has_head_only = shape.tied_head and _HEAD in names and _EMBEDDING not in names
    embedding = source.take(_HEAD if has_head_only else _EMBEDDING, shape.vocab, shape.width)
    layers = [_layer(source, shape, f"model.layers.{index}", index) for index in range(shape.layers)]
    final_norm = source.norm("model.norm.weight", shape.width)
    has_own_head = _HEAD in names and not has_head_only
    head = source.take(_HEAD, shape.vocab, shape.width) if has_own_head or not shape.tied_head else embedding
    source.finish()
    is_tied = shape.tied_head and _is_same(head, embedding)
    head = head if shape.logit_scale == 1.0 else head * shape.logit_scale
    return Weights(replace(shape, tied_head=is_tied), embedding, layers, final_norm, Linear(head))


def with_vocabulary(weights: Weights, rows: int) -> Weights:
    """The same model with more or fewer rows of padding after its tokens.

    Rows that are missing are never chosen: their logits are the lowest.

    Args:
        weights: The model.
        rows: Rows of its embedding and head.
    """
    missing = max(0, rows - weights.config.vocab)
    embedding = F.pad(weights.embedding[:rows], (0, 0, 0, missing))
    head = F.pad(weights.lm_head.weight[:rows], (0, 0, 0, missing))
    bias = head.new_zeros(rows)
    bias[rows - missing :] = torch.finfo(bias.dtype).min
    config = replace(weights.config, vocab=rows)
    return replace(
        weights, config=config, embedding=embedding, lm_head=Linear(head, bias if missing else None)
    )


def _is_same(head: Tensor, embedding: Tensor) -> bool:
    """Whether a head that the config ties is the embedding; another one is kept, as in transformers."""
    return head is embedding or head.is_meta or torch.equal(head, embedding)


def read_layers(
    shape: DecoderConfig, tensors: Mapping[str, Tensor], prefixes: Sequence[str], device: torch.device
) -> list[Layer]:
    """Single layers from those of the tensors whose names start with the layers' prefixes.

    Raises:
        UserError: If tensors are missing, left over or misshapen.
    """
    starts = tuple(f"{prefix}." for prefix in prefixes)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(starts)}
    source = CheckpointTensors(own, shape.norm_offset, device)
    layers = [_layer(source, shape, prefix) for prefix in prefixes]
    source.finish()
    return layers


def _layer(tensors: CheckpointTensors, shape: DecoderConfig, prefix: str, index: int | None = None) -> Layer:
    """One layer of a model, or for `index` None of a drafter, which has an ordinary MLP."""
    attention = f"{prefix}.self_attn"
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = [
        None if name is None else tensors.norm(f"{prefix}.{name}.weight", shape.width)
        for name in _NORMS[shape.pre_norm, shape.post_norm]
    ]
    query_norm, key_norm = _query_key_norms(tensors, shape, attention)
    if shape.fused:
        qkv = tensors.linear(f"{attention}.qkv_proj", (queries + 2 * keys,), shape.width, shape.qkv_bias)
    else:
        names = [f"{attention}.{name}_proj" for name in "qkv"]
        qkv = tensors.linear(names, (queries, keys, keys), shape.width, shape.qkv_bias)
    moe = None if shape.moe is None or index is None or index in shape.moe.dense_layers else shape.moe
    mlp: Mlp | Moe
    if moe is not None and norms[2] is not None:
        mlp = read_moe(tensors, moe, shape.width, prefix, norms[2])
    else:
        mlp = _mlp(tensors, shape, prefix, norms[2:])
    return Layer(
        attention=Attention(
            norm=norms[0],
            qkv=qkv,
            o=tensors.linear(f"{attention}.o_proj", (shape.width,), queries, shape.output_bias),
            query_norm=query_norm,
            key_norm=key_norm,
            residual=Residual(norms[1], shape.residual_scale),
            score_scale=shape.score_scale,
            is_alternate=shape.alternate is not None and index in shape.alternate.layers,
        ),
        mlp=mlp,
    )


def _mlp(
    tensors: CheckpointTensors, shape: DecoderConfig, prefix: str, norms: Sequence[Tensor | None]
) -> Mlp:
    mlp, width = f"{prefix}.mlp", shape.mlp_width
    if shape.fused:
        gate_up = tensors.linear(f"{mlp}.gate_up_proj", (2 * width,), shape.width, shape.mlp_bias)
    else:
        names = [f"{mlp}.gate_proj", f"{mlp}.up_proj"]
        gate_up = tensors.linear(names, (width,) * 2, shape.width, shape.mlp_bias)
    return Mlp(
        norm=norms[0],
        gate_up=gate_up,
        down=tensors.linear(f"{mlp}.down_proj", (shape.width,), width, shape.mlp_bias),
        residual=Residual(norms[1], shape.residual_scale),
    )


def _query_key_norms(
    tensors: CheckpointTensors, shape: DecoderConfig, attention: str
) -> tuple[Tensor | None, Tensor | None]:
    if not shape.qk_norm:
        return None, None
    heads = (shape.heads, shape.kv_heads) if shape.qk_norm_whole else (1, 1)
    query, key = (
        tensors.norm(f"{attention}.{name}_norm.weight", count * shape.head_dim)
        for name, count in zip("qk", heads, strict=True)
    )
    return query, key
