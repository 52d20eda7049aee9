"""The round that all tree methods share: draft, verify, accept a path, compact.

A tree method is a `TreeMethod`; this loop owns the bookkeeping, as `methods.core.chain` does for chains.
Between rounds every layer's cache holds ``P + G - 1`` slots (P prompt tokens, G emitted): the newest token,
the *root*, is known but not cached. It is node 0 of the next tree.

Shapes: N nodes with the root, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bench.records.model import Generation, Round
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from bench.runtime.transfer import upload
from methods.core.acceptance import Accepted, accept_tree
from methods.core.base import Budget, Clock, Lossless, Method
from methods.core.trees import Tree, compact

Rule = Callable[[Tree, Tensor, Tensor, Sampler], Accepted]
"""An acceptance rule: tree, tokens [N] and target logits [N, V] under a sampler."""


@dataclass(frozen=True, slots=True)
class TreeDraft:
    """A drafted tree.

    Args:
        tree: Its shape.
        tokens: Token of every node, the root's first, shape [N], int64.
        stop: Why it is no larger: ``length`` (the method's own tree), ``budget``, ``confidence``.
        exit_layer: Layer the draft left the target at.
    """

    tree: Tree
    tokens: Tensor
    stop: str
    exit_layer: int | None = None


class TreeDrafter(Protocol):
    """What a tree method supplies."""

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        """Run the prompt [P] through the target, fill the drafter's own state; last logits, shape [1, V]."""

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        """Draft a tree below `root` (shape [1]), which stands at position `base`.

        Args:
            root: The newest token, shape [1].
            base: Its position, the number of committed cache slots.
            room: Deepest node that the budget has room for; 0 leaves the root alone.
            slots: Free cache slots: most nodes, the root included.
            sampler: The target's sampler.
        """

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        """Target logits at every node, shape [N, V]; fills slots ``base .. base + N - 1`` of all layers."""

    def commit(self, path: tuple[int, ...], base: int) -> None:
        """Take note of the accepted nodes, root first; the target's cache is compacted already."""


def generate_tree(
    drafter: TreeDrafter,
    decoder: Decoder,
    prompt_ids: Tensor,
    budget: Budget,
    sampler: Sampler,
    clock: Clock,
    rule: Rule = accept_tree,
    after_round: Callable[[Sequence[int]], None] | None = None,
) -> Generation:
    """Decode one answer by tree speculation; see `methods.core.base.Method.generate`.

    `after_round` gets the tokens emitted so far behind every round, outside all phases.
    """
    root = sampler.pick(drafter.prefill(prompt_ids))  # [1]
    ids = root.tolist()
    clock.first_token()
    rounds: list[Round] = []
    new = 1
    while not budget.is_over(ids, new):
        base = prompt_ids.numel() + len(ids) - 1
        with clock.phase("draft"):
            draft = drafter.draft(root, base, budget.room(len(ids)), decoder.capacity - base, sampler)
        with clock.phase("verify"):
            accepted = rule(draft.tree, draft.tokens, drafter.verify(draft, base), sampler)
        with clock.phase("commit"):
            ids += accepted.emitted
            new = len(accepted.emitted)
            compact(decoder.cache, base, accepted.path)
            drafter.commit(accepted.path, base)
            root = upload(torch.tensor(accepted.emitted[-1:]), root.device)
        rounds.append(_round(draft, new))
        if after_round is not None:
            after_round(ids)
    return Generation(tuple(ids), tuple(rounds))


class TreeMethod(Lossless, TreeDrafter):
    """A lossless method that decodes by `generate_tree` on the decoder that `attach` has bound."""

    _decoder: Decoder

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        """See `methods.core.base.Method.generate`."""
        return generate_tree(self, self._decoder, prompt_ids, budget, sampler, clock)


def _round(draft: TreeDraft, emitted: int) -> Round:
    tree = draft.tree
    return Round(tree.size - 1, emitted - 1, emitted, tree.depth, draft.stop, draft.exit_layer)


@runtime_checkable
class Calibratable(Method, Protocol):
    """A tree method whose tree `bench.train.calibrate` can measure."""

    schedules: tuple[Mapping[str, Any], ...]
    """Settings under which the same tree is decoded in another order of work; calibration stores the fastest
    beside the tree. One empty mapping where there is no choice."""

    def candidates(self, ids: Tensor, width: int) -> Tensor:
        """What would be proposed behind every position of a known text.

        Args:
            ids: Token ids of the text, shape [T].
            width: Candidates per depth (K).

        Returns:
            Token ids, shape [T, D, K], best first: entry [t, k - 1] proposes token t + k + 1 given tokens
            0 .. t, token t + 1 being the target's own choice.
        """
