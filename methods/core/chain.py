"""The loop that every chain method decodes with: draft, verify, accept, roll back.

A chain method drafts K tokens in a row; the target checks them all in one pass. The newest emitted token, the
*root*, is always known but not yet cached: the next target pass reads it together with the draft. So between
rounds every layer's cache holds ``P + G - 1`` slots, for P prompt tokens and G emitted ones.

One round in numbers. The prompt has P = 5 tokens (slots 0..4), the prefill picked token 17: ``ids = [17]``.

    root     17, at position base = 5 + 1 - 1 = 5
    draft    [40, 8, 23]                                      K = 3
    verify   the target reads [17, 40, 8, 23] into slots 5..8 and returns K + 1 rows of logits;
             their argmax is [40, 8, 61, 9], the token that the target wants after each one it read
    accept   40 and 8 agree, 23 does not (the target wants 61): emitted = [40, 8, 61]
    commit   ids = [17, 40, 8, 61]; the cache is cut to base + 3 = 8 slots, slot 8 (token 23) is dropped
    record   Round(drafted=3, accepted=2, emitted=3); the next root is 61, at position base = 8

Reading order: `generate_chain` (the loop), `ChainDrafter` (what a method supplies), `DraftBuilder` (how a
method collects its draft), `methods.core.acceptance.accept` (the rule).

Shapes: P prompt tokens, K drafted tokens, V vocabulary, N of its tokens that may be drafted (all by default).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bench.records.model import Generation, Round
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftHead, Sampler
from bench.runtime.transfer import upload
from methods.core.acceptance import accept
from methods.core.base import Budget, Clock, DraftingMethod

ChainRule = Callable[[Tensor, Tensor | None, Tensor, Sampler], Tensor]
"""An acceptance rule: draft [K], its distributions [K, V] or None, target logits [K + 1, V] and a sampler
give the emitted ids, on the host. Reading them back is the only point where the loop waits for the device."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafted chain.

    Args:
        tokens: Token ids, shape [K], int64; K may be 0.
        stop: Why the chain ends: ``length``, ``budget``, ``confidence``, ``match``.
        probs: Distributions the tokens were sampled from, shape [K, V]; None if they were not sampled.
        exit_layer: Number of target layers that drafted, for early-exit methods.
    """

    tokens: Tensor
    stop: str
    probs: Tensor | None = None
    exit_layer: int | None = None


class ChainDrafter(Protocol):
    """What a chain method supplies; `ChainMethod` has defaults for all but `draft`."""

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        """Run the prompt [P] through the target and fill the drafter's own state.

        Returns:
            Target logits after the last prompt token, shape [1, V].
        """

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        """Draft a continuation of `root`.

        Args:
            root: The newest token, shape [1], not yet cached.
            base: Its position, which equals the number of cached slots.
            room: Most tokens to draft, by the budget; may be 0.
            sampler: The target's sampler. Tokens that are sampled are drawn with it, see `Draft.probs`.
        """

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        """Target logits after the root and after every drafted token, shape [K + 1, V].

        Afterwards every layer's cache holds the root and the draft, in slots ``base .. base + K``.
        """

    def commit(self, emitted: Tensor, base: int) -> None:
        """Roll the drafter's own state back to ``base + emitted.numel()`` positions.

        The target's cache has already been cut to that length.
        """


def generate_chain(
    drafter: ChainDrafter,
    decoder: Decoder,
    prompt_ids: Tensor,
    budget: Budget,
    sampler: Sampler,
    clock: Clock,
    rule: ChainRule = accept,
) -> Generation:
    """Decode one answer by chain speculation; arguments as for `methods.core.base.Method.generate`."""
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


def _round(draft: Draft, emitted: int) -> Round:
    drafted = draft.tokens.numel()
    return Round(drafted, emitted - 1, emitted, drafted, draft.stop, draft.exit_layer)


class ChainMethod(DraftingMethod, ChainDrafter):
    """A lossless chain method: a subclass writes `draft` and overrides the rest where needed."""

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        """See `methods.core.base.Method.generate`."""
        return generate_chain(self, self._decoder, prompt_ids, budget, sampler, clock)

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        """Run root and draft through the whole target in one pass."""
        return self._decoder.step(torch.cat([root, draft.tokens]), base)

    def commit(self, emitted: Tensor, base: int) -> None:
        """Do nothing: a drafter without state of its own has nothing to roll back."""


class DraftBuilder:
    """Collects a chain token by token.

    Args:
        root: The root token, shape [1]; an empty chain takes its device and dtype.
        limit: Most tokens the method drafts in a round.
        room: Most tokens the budget has room for.
        head: Whose logits tokens are proposed from; None if they cover the whole vocabulary.
    """

    def __init__(self, root: Tensor, limit: int, room: int, head: DraftHead | None = None) -> None:
        self._root, self._head = root, head
        self._limit = min(limit, room)
        self._stop_at_limit = "length" if limit <= room else "budget"
        self._tokens: list[Tensor] = []
        self._probs: list[Tensor] = []

    @property
    def has_room(self) -> bool:
        """Whether another token may be drafted."""
        return len(self._tokens) < self._limit

    def propose(self, logits: Tensor, sampler: Sampler) -> Tensor:
        """Pick the next token from draft logits [1, N], append it and return its id, shape [1].

        A sampled token is drawn from a distribution over all V tokens, which is what the rule of acceptance
        reads: zero for those that cannot be drafted.
        """
        head = self._head
        if sampler.is_greedy:
            best = logits.argmax(dim=-1)
            token = best if head is None else head.tokens(best)
        else:
            probs = sampler.probabilities(logits)
            probs = probs if head is None else head.spread(probs)
            token = sampler.draw(probs)
            self._probs.append(probs)
        self.add(token)
        return token

    def add(self, token: Tensor) -> None:
        """Append a token [1] that was picked from greedy logits."""
        self._tokens.append(token)

    def finish(self, stop: str | None = None, exit_layer: int | None = None) -> Draft:
        """The chain drafted so far; `stop` is the method's reason for ending it before its limit."""
        tokens = torch.cat(self._tokens) if self._tokens else self._root[:0]
        probs = torch.cat(self._probs) if self._probs else None
        return Draft(tokens, stop or self._stop_at_limit, probs, exit_layer)


def top_probability(logits: Tensor) -> Tensor:
    """Probability of the most likely token of draft logits [1, N] at temperature 1, a scalar."""
    return logits.float().softmax(dim=-1).amax()


def is_unsure(logits: Tensor, threshold: float) -> bool:
    """Whether the most likely token of draft logits [1, N] has a probability below `threshold`.

    A method that stops its draft here keeps the token it has already drawn from these logits. The test looks
    at the distribution and never at that token, so stopping does not bias sampled output. It reads one value
    back from the device, except at threshold 0, where it is always False.
    """
    return threshold > 0 and bool(top_probability(logits) < threshold)
