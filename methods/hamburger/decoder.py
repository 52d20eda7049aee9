"""HAMburger's frozen new parts at work: the micro-step decoder, and the merge of a group into one entry.

The micro-step decoder makes a few small steps after one pass of the target. It reads features of one target
row and the tokens emitted since, never older context, so its cost does not depend on the length of the text.
In `methods.hamburger.draft` its tokens are final; in `methods.hamburger.verified` they are a draft like any
other. (arXiv 2505.20438, section 3.)

Shapes: F features, K most tokens of a group, s tokens of a group, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.layers import read_layers
from bench.runtime.linear import Linear, rms_norm
from bench.runtime.sampling import DraftHead, Sampler
from methods.core.chain import Draft, DraftBuilder, is_unsure
from methods.hamburger.shape import HamburgerShape

_STOP_LAYERS = (0, 2, 4)  # the others are activations


class MicroDecoder:
    """The micro-step decoder on a target's embeddings, LM head and rotary positions 0, 1, ...

    Args:
        target: The model whose features it reads.
        tensors: Named as in `HamburgerShape.micro_shapes`.
        shape: Sizes of the new parts.
        confidence: A group goes on while the stop head's probability of going on is at least this. Above 1
            every group is a single token; at 0 or below the stop head ends none.
        token_confidence: A group ends before a token whose distribution gives no token this much; at 0 none.
        head: Its LM head reads the small steps, without the norm; None is the target's own.
    """

    def __init__(
        self,
        target: Decoder,
        tensors: Mapping[str, Tensor],
        shape: HamburgerShape,
        confidence: float,
        token_confidence: float = 0.0,
        head: DraftHead | None = None,
    ) -> None:
        self._target, self._shape = target, shape
        self._head = DraftHead(target) if head is None else head
        self._confidence, self._token_confidence = confidence, token_confidence
        plain = shape.micro_config(target.config)  # how the new layers are stored
        prefixes = [f"decoders.{index}" for index in range(shape.micro_layers)]
        self._layers = target.companion(
            read_layers(plain, tensors, prefixes, target.device),
            target.final_norm,
            capacity=len(shape.feature_layers) + shape.max_group - 1,
        )
        self._stop_head = [
            Linear(tensors[f"stop_head.{index}.weight"], tensors[f"stop_head.{index}.bias"])
            for index in _STOP_LAYERS
        ]

    def draft(self, root: Tensor, features: Tensor, room: int, sampler: Sampler) -> Draft:
        """The tokens that follow `root` in its group, at most `room` of them.

        Both confidences are compared before a token is drawn, so stopping does not bias what is drawn.

        Args:
            root: First token of the group, chosen by the target's own head, shape [1].
            features: Features of the row that chose it, shape [F, d]; see `features_at`.
            room: Most tokens that the budget allows.
            sampler: Greedy or sampled.
        """
        chain = DraftBuilder(root, self._shape.max_group - 1, room, self._head)
        state = features[-1:]
        inputs = torch.cat([features, self._target.embed(root)])
        self._layers.cache.truncate(0)
        while chain.has_room:
            if not self._goes_on(state):
                return chain.finish("confidence")
            state = self._advance(inputs)
            logits = self._head.lm_head(state)
            if is_unsure(logits, self._token_confidence):
                return chain.finish("probability")
            inputs = self._target.embed(chain.propose(logits, sampler))
        return chain.finish()

    def _advance(self, inputs: Tensor) -> Tensor:
        """State of the newest input after the layers, shape [1, d]; no final norm."""
        layers = self._layers
        place = layers.placement.chain(layers.cache.length, inputs.shape[0])
        return layers.run_layers(inputs, place)[-1:]

    def _goes_on(self, state: Tensor) -> bool:
        """Whether the group goes on after the token that `state` [1, d] predicts; one host sync."""
        if self._confidence <= 0 or self._confidence > 1:
            return self._confidence <= 0
        first, second, last = self._stop_head
        logit = last(F.silu(second(F.silu(first(state)))))
        return bool(torch.sigmoid(-logit.float()) >= self._confidence)


class Merge:
    """The compositional embedder: a group's token embeddings become the embedding of one cache entry.

    One attention query, the mean of the group, over its tokens. The part of keys and values that depends on a
    token's place in the group is computed once, as a table.

    Args:
        tensors: Named as in `HamburgerShape.embedder_shapes`.
        shape: Sizes of the new parts.
    """

    def __init__(self, tensors: Mapping[str, Tensor], shape: HamburgerShape) -> None:
        self._heads = shape.merger_heads
        weights = torch.cat([tensors[f"merger.{name}_proj.weight"] for name in "kv"])  # [2 d, d + d / 2]
        biases = torch.cat([tensors[f"merger.{name}_proj.bias"] for name in "kv"])
        width = weights.shape[0] // 2
        self._query = Linear(tensors["merger.q_proj.weight"], tensors["merger.q_proj.bias"])
        self._keys_values = Linear(weights[:, :width].contiguous())
        self._places = tensors["merger.pos"] @ weights[:, width:].T + biases  # [K, 2 d]
        self._out = Linear(tensors["out_proj.weight"], tensors["out_proj.bias"])

    def __call__(self, tokens: Tensor) -> Tensor:
        """One entry's embedding [1, d] from those of a group's tokens [s, d]; a single token is unchanged."""
        count, width = tokens.shape
        if count == 1:
            return tokens
        mean = tokens.mean(dim=0, keepdim=True)
        query = self._query(mean).view(self._heads, -1, 1)
        keys, values = (
            (self._keys_values(tokens) + self._places[:count])
            .view(count, 2, self._heads, -1)
            .permute(1, 2, 0, 3)  # [2, heads, s, width]
        )
        weights = (keys @ query * (width // self._heads) ** -0.5).softmax(dim=1)  # [heads, s, 1]
        return self._out.add_to(mean, (weights * values).sum(dim=1).view(1, width))


def new_taps(decoder: Decoder, shape: HamburgerShape) -> dict[int, Tensor]:
    """Taps for `Decoder.run_layers` to fill; `features_at` reads them."""
    return dict.fromkeys(shape.taps, decoder.embedding)


def features_at(decoder: Decoder, taps: Mapping[int, Tensor], shape: HamburgerShape, row: int) -> Tensor:
    """Features of one row of a pass, shape [F, d]; the deepest is taken after the final norm.

    Args:
        decoder: Whose pass it was.
        taps: As the pass filled them.
        shape: Which layers are features.
        row: The row; negative counts from the end.
    """
    features = [taps[tap][row] for tap in shape.taps]
    features[-1] = rms_norm(features[-1][None], decoder.final_norm, decoder.config.norm_eps)[0]
    return torch.stack(features)
