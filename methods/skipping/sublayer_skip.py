"""Drafting with sub-layers of the target left out.

The skipped model reads the target's own keys and values and writes its draft's behind them, on slots that are
given back before verification; nothing is cloned. A skipped attention writes none, so layers differ in length
while a draft is under way and at no other time. The set may change from one round to the next. (Draft &
Verify, arXiv 2309.08168, section 3.1; SWIFT, arXiv 2410.06916, section 4.)

Shapes: T consecutive tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder, Skip


class SkippedModel:
    """The target with some sub-layers left out, on scratch slots of its own cache.

    Args:
        decoder: The target.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def start(self, base: int, skip: Skip) -> None:
        """Begin a draft whose root stands at position `base`, behind as many committed slots."""
        self._base = self._next = base
        self._skip = skip

    def advance(self, token: Tensor) -> Tensor:
        """Draft logits [1, V] behind the next token [1]."""
        decoder = self._decoder
        place = decoder.placement.chain(self._next, 1)
        self._next += 1
        return decoder.head(decoder.run_layers(decoder.embed(token), place, skip=self._skip))

    def end(self) -> None:
        """Give the draft's slots back; all layers agree in length again."""
        self._decoder.cache.truncate(self._base)

    def predict(self, ids: Tensor, start: int, skip: Skip) -> Tensor:
        """What the skipped model says behind each token of a text that the cache has gone past.

        One pass on scratch slots. Its rows see the first `start` committed slots and each other; the
        committed slots from `start` on hold the target's view of the same text and stay hidden.

        Args:
            ids: Tokens at positions ``start ..``, shape [T].
            start: Committed slots in front of them; at most the length of the cache.
            skip: Sub-layers to leave out.

        Returns:
            Logits, shape [T, V].

        Raises:
            UserError: If the cache has no T free slots (`has_room` tells).
        """
        decoder, count = self._decoder, ids.numel()
        length = decoder.cache.length
        hidden = length - start
        depths = torch.zeros(hidden + count, dtype=torch.int64, device=ids.device)
        torch.arange(count, out=depths[hidden:])
        sees = torch.zeros(hidden + count, hidden + count, dtype=torch.bool, device=ids.device)
        sees[hidden:, hidden:] = torch.ones(count, count, dtype=torch.bool, device=ids.device).tril_()
        place = decoder.placement.tree(start, depths, sees, first=hidden)
        logits = decoder.head(decoder.run_layers(decoder.embed(ids), place, skip=skip))
        decoder.cache.truncate(length)
        return logits

    def has_room(self, count: int) -> bool:
        """Whether `count` scratch slots are free behind the committed ones."""
        return self._decoder.cache.length + count <= self._decoder.capacity


def sublayers(skip: Skip) -> int:
    """How many sub-layers a set leaves out."""
    return len(skip.attention) + len(skip.mlp)


def skip_of(attention: Iterable[int], mlp: Iterable[int]) -> Skip:
    """The set that leaves out the attention and the MLP of these layers."""
    return Skip(frozenset(attention), frozenset(mlp))


def check_skip(skip: Skip, decoder: Decoder, method: str) -> None:
    """Refuse a set that names layers the model lacks.

    Raises:
        UserError: If a layer lies outside ``0 .. L - 1``.
    """
    for kind, layers in (("skip_attention", skip.attention), ("skip_mlp", skip.mlp)):
        if unknown := _outside(layers, decoder.depth):
            raise UserError(
                f"{method}: {kind} names layers {unknown}, this model has 0..{decoder.depth - 1}",
                f"correct method.{kind}; a set found for one model does not carry over to another",
            )


def _outside(layers: Collection[int], depth: int) -> list[int]:
    return sorted(layer for layer in layers if not 0 <= layer < depth)


def skip_counts(skip: Skip, depth: int, rounds: int) -> dict[str, int]:
    """What `bench.records.model.Generation.counts` holds of drafting with this set for some rounds."""
    return {"skipped_sublayers": sublayers(skip) * rounds, "sublayers": 2 * depth * rounds}
