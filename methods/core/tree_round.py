"""The loop that every tree method decodes with: draft, verify, accept a path, compact the cache.

A tree method drafts several continuations of the root at once; the target checks all nodes in one pass, in
which a node sees its ancestors only. `methods.core.chain` explains the same loop for chains; read it first.
Between rounds every layer's cache holds ``P + G - 1`` slots, for P prompt tokens and G emitted ones: the
newest token, the *root*, is known but not yet cached. It is node 0 of the next tree.

One round in numbers. The prompt has P = 5 tokens (slots 0..4), the prefill picked token 17: ``ids = [17]``.

    root     17, at position base = 5
    draft    node     0   1   2   3   4      below the root: 40 or 12; below 40: 9 or 8
             token   17  40  12   9   8      N = 5
             parent  -1   0   0   1   1
    verify   the target reads the 5 nodes into slots 5..9 (positions 5, 6, 6, 7, 7) and returns 5 rows of
             logits; their argmax is [40, 8, 3, 60, 61], the token that the target wants after each node
    accept   after node 0 it wants 40: node 1; after node 1 it wants 8: node 4; after node 4 it wants 61,
             which was not drafted: path = (0, 1, 4), emitted = [40, 8, 61]
    commit   ids = [17, 40, 8, 61]; slots 5, 6, 9 move to 5, 6, 7 and the cache is cut to 8 slots
    record   Round(drafted=4, accepted=2, emitted=3, depth=2); the next root is 61, at position base = 8

Shapes: P prompt tokens, N nodes with the root, V vocabulary.
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
from methods.core.base import Budget, Clock, DraftingMethod, Method
from methods.core.trees import Tree, compact

Rule = Callable[[Tree, Tensor, Tensor, Sampler], Accepted]
"""An acceptance rule: tree, tokens [N], target logits [N, V] and a sampler give the accepted path."""


@dataclass(frozen=True, slots=True)
class TreeDraft:
    """A drafted tree.

    Args:
        tree: Its shape.
        tokens: Token of every node, the root's first, shape [N], int64.
        stop: Why it is no larger: ``length`` (the method's own tree), ``budget``, ``confidence``, ``match``.
        exit_layer: Number of target layers that drafted, for early-exit methods.
    """

    tree: Tree
    tokens: Tensor
    stop: str
    exit_layer: int | None = None


class TreeDrafter(Protocol):
    """What a tree method supplies; `TreeMethod` has defaults for all but `draft`."""

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        """Run the prompt [P] through the target and fill the drafter's own state.

        Returns:
            Target logits after the last prompt token, shape [1, V].
        """

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        """Draft a tree below `root`.

        Args:
            root: The newest token, shape [1], not yet cached.
            base: Its position, which equals the number of cached slots.
            room: Depth of the deepest node that the budget allows; 0 leaves the root alone.
            slots: Free cache slots, which limit the nodes, the root included.
            sampler: The sampler of the target.
        """

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        """Target logits at every node, shape [N, V]; fills slots ``base .. base + N - 1`` of all layers."""

    def commit(self, path: tuple[int, ...], base: int) -> None:
        """Keep the accepted nodes, root first, in the drafter's own state.

        The target's cache has already been compacted to them.
        """


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
    """Decode one answer by tree speculation; arguments as for `methods.core.base.Method.generate`.

    `after_round` is called after every round with the tokens emitted so far; its time belongs to no phase
    unless it opens one.
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


def _round(draft: TreeDraft, emitted: int) -> Round:
    tree = draft.tree
    return Round(tree.size - 1, emitted - 1, emitted, tree.depth, draft.stop, draft.exit_layer)


class TreeMethod(DraftingMethod, TreeDrafter):
    """A lossless tree method: a subclass writes `draft` and overrides the rest where needed."""

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        """See `methods.core.base.Method.generate`."""
        return generate_tree(self, self._decoder, prompt_ids, budget, sampler, clock)

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        """Run all nodes through the whole target in one pass."""
        decoder, tree = self._decoder, draft.tree
        place = decoder.placement.tree(base, tree.offsets, tree.sees)
        return decoder.head(decoder.run_layers(decoder.embed(draft.tokens), place))

    def commit(self, path: tuple[int, ...], base: int) -> None:
        """Do nothing: a drafter without state of its own has nothing to keep."""


@runtime_checkable
class Calibratable(Method, Protocol):
    """A tree method whose tree `bench.train.calibrate` can measure."""

    schedules: tuple[Mapping[str, Any], ...]
    """Settings that decode the same tree with the work in another order; calibration stores the fastest
    beside the tree. A single empty mapping where there is no choice."""

    def candidates(self, ids: Tensor, width: int) -> Tensor:
        """What the method would propose after every position of a known text.

        Args:
            ids: Token ids of the text, shape [T].
            width: Candidates per depth (K).

        Returns:
            Token ids, shape [T, D, K], best first: entry [t, k - 1] proposes token t + k + 1 given tokens
            0 .. t, where token t + 1 is the target's own choice.
        """
