"""A decoder's weights by the names of a Llama checkpoint: the inverse of `bench.runtime.layers.read_weights`.

For models with plain layers, see `DecoderConfig.plain_layers`: norms after sub-layers and factors are left
out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.families import DecoderConfig
from bench.runtime.layers import Layer, dense
from bench.runtime.linear import Linear

_QKV = ("q_proj", "k_proj", "v_proj")
_GATE_UP = ("gate_proj", "up_proj")


def plain_weights(decoder: Decoder) -> dict[str, Tensor]:
    """All weights of a decoder, in its precision; a tied head is left out."""
    weights = {"model.embed_tokens.weight": decoder.embedding, "model.norm.weight": decoder.final_norm}
    if not decoder.config.tied_head:
        weights["lm_head.weight"] = _stored(decoder.lm_head)
    for index, layer in enumerate(decoder.layers):
        parts = plain_layer(layer, decoder.config)
        weights |= {f"model.layers.{index}.{name}": tensor for name, tensor in parts.items()}
    return weights


def plain_layer(layer: Layer, config: DecoderConfig) -> dict[str, Tensor]:
    """The weights of one layer; norms that it does not have are ones.

    Raises:
        ValueError: If the layer has no MLP.
    """
    attention, mlp = layer.attention, dense(layer.mlp)
    if mlp is None:
        raise ValueError("a layer without an MLP has no trainable counterpart")
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    norms = {"input_layernorm.weight": attention.norm, "post_attention_layernorm.weight": mlp.norm}
    qkv = _stored(attention.qkv)
    weights = {name: qkv.new_ones(config.width) if norm is None else norm for name, norm in norms.items()}
    weights |= _split(attention.qkv, qkv, [f"self_attn.{name}" for name in _QKV], [queries, keys, keys])
    weights |= _split(attention.o, _stored(attention.o), ["self_attn.o_proj"], [config.width])
    names = [f"mlp.{name}" for name in _GATE_UP]
    weights |= _split(mlp.gate_up, _stored(mlp.gate_up), names, [config.mlp_width] * 2)
    weights |= _split(mlp.down, _stored(mlp.down), ["mlp.down_proj"], [config.width])
    if attention.query_norm is not None and attention.key_norm is not None:
        weights |= {"self_attn.q_norm.weight": attention.query_norm}
        weights |= {"self_attn.k_norm.weight": attention.key_norm}
    return weights


def _stored(linear: Linear) -> Tensor:
    """A projection's weight [O, I]; of a compiled product a copy, which the projection does not keep."""
    return linear.weight if linear.compiled is None else linear.compiled.unpacked()


def _split(linear: Linear, weight: Tensor, names: list[str], sizes: list[int]) -> dict[str, Tensor]:
    parts = {f"{name}.weight": part for name, part in zip(names, torch.split(weight, sizes), strict=True)}
    if linear.bias is not None:
        biases = torch.split(linear.bias, sizes)
        parts |= {f"{name}.bias": part for name, part in zip(names, biases, strict=True)}
    return parts
