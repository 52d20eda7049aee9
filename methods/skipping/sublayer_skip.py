"""Drafting with some attention and MLP sub-layers of the target skipped.

The skipped model reads the target's own keys and values. Those of its draft go to *scratch slots*: free slots
of the same cache, after the committed ones, which are released before verification; nothing is copied. A
skipped attention writes no keys and values, so the layers' caches differ in length while drafting, and only
then. The set of skipped sub-layers may change from one round to the next. (Draft & Verify, arXiv 2309.08168,
section 3.1; SWIFT, arXiv 2410.06916, section 4.)

Shapes: T consecutive tokens, N tokens that may be drafted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder, Skip
from bench.runtime.sampling import DraftHead


class SkippedModel:
    """The target with some sub-layers skipped, on scratch slots of its own cache.

    Args:
        decoder: The target.
        head: Reads the skipped model's rows; None is the target's own head.
    """

    def __init__(self, decoder: Decoder, head: DraftHead | None = None) -> None:
        self._decoder = decoder
        self._head = DraftHead(decoder) if head is None else head

    def start(self, base: int, skip: Skip) -> None:
        """Begin a draft whose root is at position `base`, the number of committed slots."""
        self._base = self._next = base
        self._skip = skip

    def advance(self, token: Tensor) -> Tensor:
        """Run the next token [1] through the skipped model; draft logits after it, shape [1, N]."""
        decoder = self._decoder
        place = decoder.placement.chain(self._next, 1)
        self._next += 1
        return self._head(decoder.run_layers(decoder.embed(token), place, skip=self._skip))

    def end(self) -> None:
        """Release the scratch slots; all layers are equally long again."""
        self._decoder.cache.truncate(self._base)

    def predict(self, ids: Tensor, start: int, skip: Skip) -> Tensor:
        """What the skipped model predicts after each token of a text that the target has already cached.

        One pass on scratch slots. Its rows see the first `start` committed slots and each other; the
        committed slots from `start` on hold the target's keys and values of the same text and are masked.

        Args:
            ids: Tokens at positions ``start ..``, shape [T].
            start: Number of committed slots before them, at most the length of the cache.
            skip: Sub-layers to skip.

        Returns:
            Logits, shape [T, N].

        Raises:
            UserError: If the cache has no T free slots; check with `has_room` first.
        """
        decoder, count = self._decoder, ids.numel()
        length = decoder.cache.length
        hidden = length - start
        depths = torch.zeros(hidden + count, dtype=torch.int64, device=ids.device)
        torch.arange(count, out=depths[hidden:])
        sees = torch.zeros(hidden + count, hidden + count, dtype=torch.bool, device=ids.device)
        sees[hidden:, hidden:] = torch.ones(count, count, dtype=torch.bool, device=ids.device).tril_()
        place = decoder.placement.tree(start, depths, sees, first=hidden)
        logits = self._head(decoder.run_layers(decoder.embed(ids), place, skip=skip))
        decoder.cache.truncate(length)
        return logits

    def has_room(self, count: int) -> bool:
        """Whether `count` scratch slots are free."""
        return self._decoder.cache.length + count <= self._decoder.capacity


def sublayers(skip: Skip) -> int:
    """Number of sub-layers that a set skips."""
    return len(skip.attention) + len(skip.mlp)


def skip_of(attention: Iterable[int], mlp: Iterable[int]) -> Skip:
    """The set that skips the attention of the first layers given and the MLP of the second."""
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
                f"correct method.{kind}; a set searched for one model does not fit another",
            )


def _outside(layers: Collection[int], depth: int) -> list[int]:
    return sorted(layer for layer in layers if not 0 <= layer < depth)


def skip_counts(skip: Skip, depth: int, rounds: int) -> dict[str, int]:
    """Entries of `bench.records.model.Generation.counts` for a number of rounds drafted with this set."""
    return {"skipped_sublayers": sublayers(skip) * rounds, "sublayers": 2 * depth * rounds}
