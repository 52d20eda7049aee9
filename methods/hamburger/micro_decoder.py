"""HAMburger's micro-step decoder at work: a few small steps behind one pass of the target.

It reads features of one target row and the tokens emitted since, never older context, so its cost does not
depend on the length of the text. Blind (`methods.hamburger.draft`) its tokens are final; verified
(`methods.hamburger.verified`) they are a draft like any other. (arXiv 2505.20438, section 3.)

Shapes: F features, K most tokens of a group, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.linear import Linear, rms_norm
from bench.runtime.sampling import Sampler
from methods.core.chain import Draft, DraftBuilder, is_unsure
from methods.hamburger.model import HamburgerShape
from methods.training.trained_layer import as_layer

_STOP_LAYERS = (0, 2, 4)  # the others are activations


class MicroDecoder:
    """The micro-step decoder on a target's embeddings, LM head and rotary positions 0, 1, ...

    Args:
        target: The model whose features it reads.
        tensors: State of `methods.hamburger.model.MicroModule`.
        shape: What the module looks like.
        confidence: A group goes on while the stop head's probability of going on is at least this; above 1
            no group goes on, at 0 or below the stop head ends none.
        token_confidence: A group ends before a token whose distribution gives no token this much; at 0 none.
    """

    def __init__(
        self,
        target: Decoder,
        tensors: Mapping[str, Tensor],
        shape: HamburgerShape,
        confidence: float,
        token_confidence: float = 0.0,
    ) -> None:
        self._target, self._shape = target, shape
        self._confidence, self._token_confidence = confidence, token_confidence
        self._layers = target.companion(
            [as_layer(tensors, f"decoders.{index}.") for index in range(shape.micro_layers)],
            target.final_norm,
            capacity=len(shape.feature_layers) + shape.max_group - 1,
        )
        self._stop_head = [
            Linear(tensors[f"stop_head.{index}.weight"], tensors[f"stop_head.{index}.bias"])
            for index in _STOP_LAYERS
        ]

    def draft(self, root: Tensor, features: Tensor, room: int, sampler: Sampler) -> Draft:
        """The tokens that follow `root` in its group, at most `room` of them.

        Both rules decide on what a token is predicted from, before it is drawn: stopping does not bias what
        is drawn.

        Args:
            root: First token of the group, read from the target's own head, shape [1].
            features: Features of the row that it was read from, shape [F, d]; see `features_at`.
            room: Tokens the budget has room for.
            sampler: Greedy or sampled.
        """
        chain = DraftBuilder(root, self._shape.max_group - 1, room)
        state = features[-1:]
        inputs = torch.cat([features, self._target.embed(root)])
        self._layers.cache.truncate(0)
        while chain.has_room:
            if not self._goes_on(state):
                return chain.finish("confidence")
            state = self._advance(inputs)
            logits = self._target.lm_head(state)
            if is_unsure(logits, self._token_confidence):
                return chain.finish("probability")
            inputs = self._target.embed(chain.propose(logits, sampler))
        return chain.finish()

    def _advance(self, inputs: Tensor) -> Tensor:
        """State behind the newest input, shape [1, d]; no final norm."""
        layers = self._layers
        place = layers.placement.chain(layers.cache.length, inputs.shape[0])
        return layers.run_layers(inputs, place)[-1:]

    def _goes_on(self, state: Tensor) -> bool:
        """Whether the group goes on behind the token that `state` [1, d] predicts; one host sync."""
        if self._confidence <= 0 or self._confidence > 1:
            return self._confidence <= 0
        first, second, last = self._stop_head
        logit = last(F.silu(second(F.silu(first(state)))))
        return bool(torch.sigmoid(-logit.float()) >= self._confidence)


def features_at(decoder: Decoder, taps: Mapping[int, Tensor], shape: HamburgerShape, row: int) -> Tensor:
    """Features of one row of a pass, shape [F, d]; the deepest stands behind the final norm.

    Args:
        decoder: Whose pass it was.
        taps: What `Decoder.run_layers` filled for `HamburgerShape.taps`.
        shape: Which layers are features.
        row: The row; negative counts from the end.
    """
    found = [taps[tap][row] for tap in shape.taps]
    found[-1] = rms_norm(found[-1][None], decoder.final_norm, decoder.config.norm_eps)[0]
    return torch.stack(found)


def new_taps(decoder: Decoder, shape: HamburgerShape) -> dict[int, Tensor]:
    """Taps for `Decoder.run_layers` to fill."""
    return dict.fromkeys(shape.taps, decoder.embedding)
