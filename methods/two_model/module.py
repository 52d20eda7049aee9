"""A small draft model and how it is trained; `methods.two_model.draft` decodes with it.

Shapes: T positions, d width, D width of the target, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from bench.runtime.decoder import Decoder
from methods.training.distillation import soft_cross_entropy
from methods.training.rows import TrainingRows
from methods.two_model.draft import HEAD_WIDTH


class TwoModelTrainer:
    """Trains a draft model; see `methods.core.base.ModuleTrainer`.

    Args:
        name: Of the method, as stored with the weights.
        layers: Layers of the draft model.
        width: Its width, a multiple of `HEAD_WIDTH`.
    """

    def __init__(self, name: str, layers: int, width: int) -> None:
        self._name, self._layers, self._width = name, layers, width

    def new_module(self, decoder: Decoder) -> nn.Module:
        module = DraftModel(LlamaConfig(**self._shape(decoder)))
        module.take_directions(decoder.embedding)
        return module

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        return ()

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        return {"method": self._name, "shape": self._shape(decoder)}

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Soft cross-entropy against the target, temperature 1, on answer positions."""
        logits = torch.cat([module(dialogue) for dialogue in torch.split(rows.ids, list(rows.lengths))])
        return soft_cross_entropy(logits[rows.mask], rows.likely, rows.likely.ids)

    def _shape(self, decoder: Decoder) -> dict[str, Any]:
        """Sizes of a Llama with the configured layers and width and the target's vocabulary and context."""
        return {
            "vocab_size": decoder.config.vocab,
            "hidden_size": self._width,
            "intermediate_size": 8 * self._width // 3,
            "num_hidden_layers": self._layers,
            "num_attention_heads": self._width // HEAD_WIDTH,
            "max_position_embeddings": decoder.config.context,
            "tie_word_embeddings": True,
            "architectures": ["LlamaForCausalLM"],
            **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        }


class DraftModel(nn.Module):
    """A small Llama with a tied head; tensor names are those of an ordinary checkpoint."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.model = LlamaModel(config)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [T, V] of a whole text [T]."""
        rows = self.model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        return F.linear(rows, self.model.embed_tokens.weight)

    @torch.no_grad()
    def take_directions(self, embedding: Tensor) -> None:
        """Initialise the embedding with the principal directions of the target's [V, D].

        So the draft model starts with the target's knowledge of which tokens are similar.
        """
        table = self.model.embed_tokens.weight  # [V, d]
        left, sizes, _ = torch.linalg.svd(embedding.float(), full_matrices=False)
        count = min(table.shape[1], sizes.numel())
        table[:, :count] = left[:, :count] * sizes[:count]
