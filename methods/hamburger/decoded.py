"""What HAMburger needs to decode a known answer in training, and so to learn the groups it will read.

Segmentation by entropy (`methods.hamburger.groups`) knows what the untuned model was sure of; decoding asks
the stop head and the micro-step decoder, which see far less. A model that has only read groups of the first
kind reads those of the second worse than single tokens. The paper trains on the first kind alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bench.runtime.cache import KVCache
from bench.runtime.decoder import Decoder, Weights
from bench.runtime.linear import Linear
from bench.runtime.sampling import Sampler, Sampling
from methods.hamburger.checkpoint import Checkpoint, stripped
from methods.hamburger.model import NEW_PARTS, HamburgerModel
from methods.training.trained_layer import as_layer

_INNER = "model.model."


class KnownText(Sampler):
    """Picks the tokens of a text one after another, whatever the model says.

    Args:
        ids: The text.
        device: Where the logits live.
    """

    def __init__(self, ids: Sequence[int], device: torch.device) -> None:
        super().__init__(Sampling(), torch.device("cpu"), 0)  # whose generator is not asked
        self.is_greedy = False  # a draft asks for `draw` then
        self._left: Iterator[Tensor] = iter(torch.tensor(ids, device=device)[:, None])

    def pick(self, logits: Tensor) -> Tensor:
        return next(self._left)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits

    def draw(self, probs: Tensor) -> Tensor:
        return next(self._left)


def as_checkpoint(model: HamburgerModel, decoder: Decoder, capacity: int) -> Checkpoint:
    """The model as trained by now, ready to decode on its own copy of the weights.

    Args:
        model: In training.
        decoder: The untuned model, of the same shape, in the wanted precision.
        capacity: Longest sequence in tokens.
    """
    state = {name: tensor.detach().to(decoder.dtype) for name, tensor in model.state_dict().items()}
    config = decoder.config
    shape = (decoder.depth, config.kv_heads, capacity, config.head_dim)
    weights = Weights(
        config,
        state[f"{_INNER}embed_tokens.weight"],
        [as_layer(state, f"{_INNER}layers.{index}.") for index in range(decoder.depth)],
        state[f"{_INNER}norm.weight"],
        Linear(model.lm_head.detach().to(decoder.dtype)),
    )
    tuned = Decoder(weights, KVCache(*shape, decoder.dtype, decoder.device), decoder.placement)
    embedder, micro = (stripped(state, part) for part in NEW_PARTS)
    return Checkpoint(tuned, embedder, micro, model.shape)
