"""A whole model in plain torch, for training; tensors are named as in a Llama checkpoint."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.families import DecoderConfig
from bench.runtime.plain_weights import plain_weights
from methods.training.trained_layer import TrainedLayer


class TrainedModel(nn.Module):
    """Embedding, layers, final norm and head; randomly initialised."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        inner = nn.Module()
        inner.embed_tokens = nn.Embedding(config.vocab, config.width)
        inner.layers = nn.ModuleList(TrainedLayer(config) for _ in range(config.layers))
        inner.norm = nn.RMSNorm(config.width, config.norm_eps)
        self.model: Any = inner
        self.lm_head: Any = None if config.tied_head else nn.Linear(config.width, config.vocab, bias=False)

    def copy_weights(self, decoder: Decoder) -> None:
        """Take the weights of a decoder, in fp32."""
        weights = plain_weights(decoder)
        self.load_state_dict({name: tensor.detach().float() for name, tensor in weights.items()})

    @property
    def head(self) -> Tensor:
        """Weight of the LM head, shape [V, d]."""
        weight: Tensor = self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return weight


def require_plain(config: DecoderConfig, command: str) -> None:
    """Refuse a model whose layers have more than those of `TrainedModel`.

    Args:
        config: Of the model.
        command: What wants to train it, for the message.

    Raises:
        UserError: With the families that can be trained.
    """
    has_factors = config.embed_scale != 1 or config.logit_scale != 1
    if has_factors or config != config.plain_layers():
        raise UserError(
            f"{command} cannot tune a {config.family}: its layers have more than the plain ones trained "
            "here, or its checkpoints store fused or shifted weights",
            "tune a model of the Llama, Mistral or Qwen families",
        )
