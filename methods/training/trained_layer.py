"""A decoder layer in plain torch, for training: batched, differentiable, tensor names as in checkpoints.

The benchmark's decoder runs frozen, fused weights on rows of one sequence. Trained modules need the same
layer with gradients and a batch axis. `bench.runtime.layers.read_layers` turns their tensors into
layers of a decoder.

Shapes: B sequences, S positions, d width, H query heads, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.runtime.families import DecoderConfig
from bench.runtime.layers import Layer
from bench.runtime.plain_weights import plain_layer
from bench.runtime.rows import rotate

_QKV = ("q_proj", "k_proj", "v_proj")
_GATE_UP = ("gate_proj", "up_proj")


class TrainedLayer(nn.Module):
    """Attention and gated MLP, a norm before each, with the sizes of `config`; randomly initialised.

    Args:
        config: Of a model whose layers are like this, or its `plain_layers`.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self._config = config
        width, head_dim = config.width, config.head_dim
        attention = nn.Module()
        for name, heads in zip(_QKV, (config.heads, config.kv_heads, config.kv_heads), strict=True):
            attention.add_module(name, nn.Linear(width, heads * head_dim, config.qkv_bias))
        attention.o_proj = nn.Linear(config.heads * head_dim, width, config.output_bias)
        if config.qk_norm:
            attention.q_norm = nn.RMSNorm(head_dim, config.norm_eps)
            attention.k_norm = nn.RMSNorm(head_dim, config.norm_eps)
        mlp = nn.Module()
        for name in _GATE_UP:
            mlp.add_module(name, nn.Linear(width, config.mlp_width, config.mlp_bias))
        mlp.down_proj = nn.Linear(config.mlp_width, width, config.mlp_bias)
        self.input_layernorm = nn.RMSNorm(width, config.norm_eps)
        self.self_attn: Any = attention
        self.post_attention_layernorm = nn.RMSNorm(width, config.norm_eps)
        self.mlp: Any = mlp

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, future: Tensor) -> Tensor:
        """Rows leaving the layer.

        Args:
            hidden: Rows entering it, shape [B, S, d].
            cos: Rotary cosines, shape [B or 1, S, 1, D].
            sin: Rotary sines, of the same shape.
            future: Additive causal mask, shape [S, S]; see `future_mask`.

        Returns:
            Shape [B, S, d].
        """
        hidden = hidden + self._attend(self.input_layernorm(hidden), cos, sin, future)
        normed = self.post_attention_layernorm(hidden)
        gate, up = self.mlp.gate_proj(normed), self.mlp.up_proj(normed)
        inner = F.silu(gate) if self._config.activation == "silu" else F.gelu(gate, approximate="tanh")
        return hidden + self.mlp.down_proj(inner * up)  # type: ignore[no-any-return]

    def _attend(self, normed: Tensor, cos: Tensor, sin: Tensor, future: Tensor) -> Tensor:
        config, attention = self._config, self.self_attn
        heads = (*normed.shape[:2], -1, config.head_dim)
        queries, keys = attention.q_proj(normed).view(heads), attention.k_proj(normed).view(heads)
        values = attention.v_proj(normed).view(heads)
        if config.qk_norm:
            queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        queries, keys = rotate(queries, cos, sin), rotate(keys, cos, sin)
        groups = config.heads // config.kv_heads
        if groups > 1:
            keys, values = keys.repeat_interleave(groups, dim=2), values.repeat_interleave(groups, dim=2)
        queries, keys, values = (rows.transpose(1, 2).to(values.dtype) for rows in (queries, keys, values))
        # Plain products: the backward pass of the fused kernels is slower at the sizes trained here.
        scores = queries @ keys.mT * config.head_dim**-0.5 + future  # [B, H, S, S]
        mixed = scores.softmax(dim=-1).to(values.dtype) @ values
        return attention.o_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def future_mask(length: int, device: torch.device) -> Tensor:
    """Additive mask that hides later positions, shape [length, length]."""
    return torch.full((length, length), -1e9, device=device).triu(1)


def layer_state(layer: Layer, config: DecoderConfig) -> dict[str, Tensor]:
    """A decoder's layer as the state of a `TrainedLayer`, copied in fp32."""
    return {name: tensor.detach().clone().float() for name, tensor in plain_layer(layer, config).items()}
