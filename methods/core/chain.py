"""The round that all chain methods share: draft, verify, accept, roll back.

A chain method is a `ChainMethod`; this loop owns the bookkeeping, so that the count of every round and the
length of the cache after it follow one rule. Between rounds every layer's cache holds ``P + G - 1`` slots (P
prompt tokens, G emitted): the newest token, the *root*, is known but not cached.

Shapes: K drafted tokens, V vocabulary, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bench.records.model import Generation, Round
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from bench.runtime.transfer import upload
from methods.core.acceptance import accept
from methods.core.base import Budget, Clock, Lossless

ChainRule = Callable[[Tensor, Tensor | None, Tensor, Sampler], Tensor]
"""An acceptance rule: draft [K], its distributions [K, V] or None, target logits [K + 1, V], a sampler; the
emitted ids lie on the host, which waits for the device here and nowhere else in a round."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafted chain.

    Args:
        tokens: Token ids, shape [K], int64; K may be 0.
        stop: Why the chain ends: ``length``, ``budget``, ``confidence``, ``match``.
        probs: The distributions the tokens were drawn from, shape [K, V]; None if they were not drawn.
        exit_layer: Layer the draft left the target at.
    """

    tokens: Tensor
    stop: str
    probs: Tensor | None = None
    exit_layer: int | None = None


class ChainDrafter(Protocol):
    """What a chain method supplies."""

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        """Run the prompt [P] through the target, fill the drafter's state; last logits, shape [1, V]."""

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        """Draft at most `room` tokens behind `root` (shape [1]), which stands at position `base`."""

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        """Target logits at the root and every drafted token, shape [K + 1, V]; fills all layers' caches."""

    def commit(self, emitted: Tensor, base: int) -> None:
        """Roll the drafter's own state back to ``base + emitted.numel()`` positions."""


def generate_chain(
    drafter: ChainDrafter,
    decoder: Decoder,
    prompt_ids: Tensor,
    budget: Budget,
    sampler: Sampler,
    clock: Clock,
    rule: ChainRule = accept,
) -> Generation:
    """Decode one answer by chain speculation; see `methods.core.base.Method.generate`."""
    root = sampler.pick(drafter.prefill(prompt_ids))  # [1]
    ids = root.tolist()
    clock.first_token()
    rounds: list[Round] = []
    new = 1
    while not budget.is_over(ids, new):
        base = prompt_ids.numel() + len(ids) - 1
        with clock.phase("draft"):
            draft = drafter.draft(root, base, budget.room(len(ids)), sampler)
        with clock.phase("verify"):
            emitted = rule(draft.tokens, draft.probs, drafter.verify(root, draft, base), sampler)
        with clock.phase("commit"):
            ids += emitted.tolist()
            new = emitted.numel()
            decoder.cache.truncate(base + new)
            drafter.commit(emitted, base)
            root = upload(emitted[-1:], root.device)
        rounds.append(_round(draft, new))
    return Generation(tuple(ids), tuple(rounds))


class ChainMethod(Lossless, ChainDrafter):
    """A lossless method that decodes by `generate_chain` on the decoder that `attach` has bound."""

    _decoder: Decoder

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        """See `methods.core.base.Method.generate`."""
        return generate_chain(self, self._decoder, prompt_ids, budget, sampler, clock)


def top_probability(logits: Tensor) -> Tensor:
    """Probability of the likeliest token of draft logits [1, V] at temperature 1, a scalar."""
    return logits.float().softmax(dim=-1).amax()


def is_unsure(logits: Tensor, threshold: float) -> bool:
    """Whether a draft ends at these logits [1, V], their likeliest token being below `threshold`.

    It looks at the distribution and never at the token drawn from it; the caller keeps the token drawn, or
    draws none, so that stopping does not bias the output. One host sync: a stopping rule needs the value.
    None at 0.
    """
    return threshold > 0 and bool(top_probability(logits) < threshold)


def _round(draft: Draft, emitted: int) -> Round:
    drafted = draft.tokens.numel()
    return Round(drafted, emitted - 1, emitted, drafted, draft.stop, draft.exit_layer)


class DraftBuilder:
    """Collects a chain token by token.

    Args:
        root: The root token, shape [1]; gives device and dtype to an empty chain.
        limit: Most tokens the method drafts in a round.
        room: Most tokens the budget has room for.
    """

    def __init__(self, root: Tensor, limit: int, room: int) -> None:
        self._root = root
        self._limit = min(limit, room)
        self._full = "length" if limit <= room else "budget"
        self._tokens: list[Tensor] = []
        self._probs: list[Tensor] = []

    @property
    def has_room(self) -> bool:
        """Whether another token may be drafted."""
        return len(self._tokens) < self._limit

    def propose(self, logits: Tensor, sampler: Sampler) -> Tensor:
        """Pick the next token from draft logits [1, V] and append it; its id, shape [1]."""
        if sampler.is_greedy:
            token = logits.argmax(dim=-1)
        else:
            probs = sampler.probabilities(logits)
            token = sampler.draw(probs)
            self._probs.append(probs)
        self._tokens.append(token)
        return token

    def finish(self, stop: str | None = None, exit_layer: int | None = None) -> Draft:
        """The chain drafted so far; `stop` names the method's reason if the limits did not end it."""
        tokens = torch.cat(self._tokens) if self._tokens else self._root[:0]
        probs = torch.cat(self._probs) if self._probs else None
        return Draft(tokens, stop or self._full, probs, exit_layer)
