"""Kangaroo's adapter and how it is trained, arXiv 2404.18911, section 3.2; `methods.kangaroo.draft` decodes.

Differs from the authors' code in:
- the adapter's attention turns by the target's own rotary angles (there, by those of base 10,000, which is
  Vicuna's);
- training masks position t by whether token t + 1 is an answer token (there, token t - 1).

Shapes: T positions of all dialogues of a batch, d width, H query heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from bench.runtime.rows import rotate
from methods.training.distillation import distil
from methods.training.rows import TrainingRows


class KangarooTrainer:
    """Trains the adapter; see `methods.core.base.ModuleTrainer`.

    Args:
        name: Of the method, as stored with the weights.
        exit_layer: Layers that draft (l); None for a twelfth of the depth.
    """

    def __init__(self, name: str, exit_layer: int | None) -> None:
        self._name, self._exit_layer = name, exit_layer

    def new_module(self, decoder: Decoder) -> nn.Module:
        config = decoder.config
        return Adapter(config.width, config.heads, config.kv_heads, config.head_dim, config.norm_eps)

    def _layer(self, decoder: Decoder) -> int:
        """The exit to train for: as configured, or a twelfth of the depth (paper: L/16 to L/10)."""
        return max(1, round(decoder.depth / 12)) if self._exit_layer is None else self._exit_layer

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        return (self._layer(decoder),)

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        return {"method": self._name, "exit_layer": self._layer(decoder)}

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Soft cross-entropy against the frozen target, temperature 1, on answer positions (section 3.2)."""
        shallow = rows.hidden[self._layer(decoder)].float()
        cos, sin = decoder.placement.rotation(0, max(rows.lengths))
        drafted = module(shallow, cos.float(), sin.float(), rows.lengths)
        return distil(drafted[rows.mask], rows.likely, rows.head)


class Adapter(nn.Module):
    """The trained module (section 3.2): norm, attention, residual, norm; ``4 d^2 + 2 d`` weights for MHA.

    Tensor names are those of the published checkpoints.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self._heads, self._kv_heads, self._head_dim = heads, kv_heads, head_dim
        attention = nn.Module()
        attention.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        attention.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        attention.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        attention.o_proj = nn.Linear(heads * head_dim, width, bias=False)
        layer = nn.Module()
        layer.input_layernorm = nn.RMSNorm(width, eps)
        layer.self_attn = attention
        self.layers = nn.ModuleList([layer])
        self.norm = nn.RMSNorm(width, eps)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, lengths: Sequence[int]) -> Tensor:
        """Rows ready for the LM head, shape [T, d], from shallow rows of the same shape.

        Args:
            hidden: Rows of several dialogues, one after the other, shape [T, d].
            cos: Rotary cosines of positions from 0 to the longest dialogue's last, shape [S, 1, D].
            sin: Rotary sines, of the same shape.
            lengths: Positions of each dialogue.
        """
        layer: Any = self.layers[0]
        normed = layer.input_layernorm(hidden)
        queries = layer.self_attn.q_proj(normed).unflatten(1, (self._heads, self._head_dim))
        keys = layer.self_attn.k_proj(normed).unflatten(1, (self._kv_heads, self._head_dim))
        values = layer.self_attn.v_proj(normed).unflatten(1, (self._kv_heads, self._head_dim))
        parts = zip(queries.split(lengths), keys.split(lengths), values.split(lengths), strict=True)
        mixed = torch.cat([self._attend(*part, cos, sin) for part in parts])
        out: Tensor = self.norm(hidden + layer.self_attn.o_proj(mixed))
        return out

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attention within one dialogue of T positions, shape [T, H D]."""
        count = queries.shape[0]
        mixed = F.scaled_dot_product_attention(
            rotate(queries, cos[:count], sin[:count]).transpose(0, 1)[None],
            rotate(keys, cos[:count], sin[:count]).transpose(0, 1)[None],
            values.transpose(0, 1)[None],
            is_causal=True,
            enable_gqa=self._heads != self._kv_heads,
        )
        return mixed[0].transpose(0, 1).flatten(1)
