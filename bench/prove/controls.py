"""Methods broken on purpose, one mistake each: a proof that lets one of them pass is worthless.

All run through the loops that real methods use (`methods.core.chain`, `methods.core.tree_round`). Their
drafts come from the target's own head on the embedding of the last token, which costs no cache and is right
often enough. The two honest ones must pass, so what is caught is the mistake and nothing else.

Shapes: K drafted tokens, N nodes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.records.model import Generation
from bench.runtime.decoder import Decoder, Skip
from bench.runtime.sampling import Sampler
from methods.core.acceptance import Accepted, accept, accept_greedy, accept_tree
from methods.core.base import Budget, Clock, Lossless
from methods.core.chain import ChainRule, Draft, DraftBuilder, generate_chain
from methods.core.tree_round import Rule, TreeDraft, generate_tree
from methods.core.trees import Tree

CHAIN_LENGTH = 4
TREE = {"": 3, "0": 2, "1": 1, "00": 1, "10": 1}
UNSURE = 0.25
_NO_ATTENTION = Skip(attention=frozenset({0}))


@dataclass(frozen=True, slots=True)
class Control:
    """A variant to be caught.

    Args:
        name: The mistake.
        kind: The check of the output that catches it, ``greedy`` or ``sampling``; ``premises`` where only a
            look into the rounds does; empty for an honest variant.
        build: Makes the method.
    """

    name: str
    kind: str
    build: Callable[[], Chain | Branches]

    @property
    def is_broken(self) -> bool:
        """Whether it must be caught."""
        return bool(self.kind)


class Chain(Lossless):
    """Honest chain speculation.

    Args:
        rule: Acceptance.
    """

    def __init__(self, rule: ChainRule = accept) -> None:
        self._rule = rule

    def attach(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        return generate_chain(self, self._decoder, prompt_ids, budget, sampler, clock, self._rule)

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        return self._decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        chain, token = DraftBuilder(root, CHAIN_LENGTH, room), root
        while chain.has_room:
            token = chain.propose(_guess(self._decoder, token), sampler)
        return chain.finish()

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        return self._decoder.step(torch.cat([root, draft.tokens]), base)

    def commit(self, emitted: Tensor, base: int) -> None:
        """Nothing beyond the target's cache to roll back."""


class Branches(Lossless):
    """Honest tree speculation with a static tree.

    Args:
        rule: Acceptance.
    """

    def __init__(self, rule: Rule = accept_tree) -> None:
        self._rule = rule

    def attach(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._tree = Tree.of_child_counts(TREE, decoder.device)

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        return generate_tree(self, self._decoder, prompt_ids, budget, sampler, clock, self._rule)

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        return self._decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        tree = self._tree.fit(room, slots)
        token, candidates = root, []
        for _ in range(self._tree.depth):
            candidates.append(_guess(self._decoder, token)[0].topk(self._tree.width).indices)
            token = candidates[-1][1:2]  # the second best leads on, so that accepted paths have gaps
        return TreeDraft(tree, tree.gather(root, torch.stack(candidates)), "length")

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        return self._run(draft, base, 0)

    def commit(self, path: tuple[int, ...], base: int) -> None:
        """Nothing beyond the target's cache to roll back."""

    def _run(self, draft: TreeDraft, base: int, slip: int) -> Tensor:
        """One pass over the tree with every position moved by `slip`; logits [N, V]."""
        decoder, tree = self._decoder, draft.tree
        place = decoder.placement.tree(base, tree.offsets + slip, tree.sees)
        return decoder.head(decoder.run_layers(decoder.embed(draft.tokens), place))


class StaleRows(Branches):
    """The accepted path is not moved: the rows of rejected nodes stay where it belongs."""

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        logits = super().verify(draft, base)
        end = base + draft.tokens.numel()
        self._rows = [store[:, :, base:end].clone() for store in self._decoder.cache.stores]
        return logits

    def commit(self, path: tuple[int, ...], base: int) -> None:
        for store, rows in zip(self._decoder.cache.stores, self._rows, strict=True):
            store[:, :, base : base + len(path)] = rows[:, :, : len(path)]


class WrongPosition(Branches):
    """Behind a path that left nodes out, positions count the nodes of the tree and not the tokens."""

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._slip = 0
        return super().prefill(prompt_ids)

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        return self._run(draft, base, self._slip)

    def commit(self, path: tuple[int, ...], base: int) -> None:
        self._slip = path[-1] - (len(path) - 1)


class UnevenPasses(Chain):
    """On a tier whose passes over several rows have other logits than those over one: 1 % larger."""

    def attach(self, decoder: Decoder) -> None:
        super().attach(decoder)
        self._decoder = copy(decoder)
        self._decoder.step = partial(_uneven_step, decoder)  # type: ignore[method-assign]


def _uneven_step(decoder: Decoder, tokens: Tensor, base: int) -> Tensor:
    logits = decoder.step(tokens, base)
    return logits if tokens.numel() == 1 else 1.01 * logits


class LeftoverState(Chain):
    """The first logits of an answer are mixed with those of the prompt before."""

    _last: Tensor | None = None

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        own = super().prefill(prompt_ids)
        mixed = own if self._last is None else (own + self._last) / 2
        self._last = own
        return mixed


class TokenDependentStop(Chain):
    """A drawn token that the draft is unsure of is dropped, and the target draws instead of it."""

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        draft = super().draft(root, base, room, sampler)
        if draft.probs is None or draft.probs.shape[0] == 0:
            return draft
        chance = draft.probs.gather(1, draft.tokens[:, None])[:, 0]
        kept = int((chance >= UNSURE).long().cumprod(dim=0).sum())
        return Draft(draft.tokens[:kept], "confidence", draft.probs[:kept])


def one_too_many(
    draft: Tensor, draft_probs: Tensor | None, target_logits: Tensor, sampler: Sampler
) -> Tensor:
    """Counts one drafted token more than the target agreed to, if one is left."""
    right = accept(draft, draft_probs, target_logits, sampler)
    agreed = right.numel() - 1
    if agreed == draft.numel():
        return right
    return torch.cat([draft[: agreed + 1], sampler.pick(target_logits[agreed + 1 : agreed + 2])]).cpu()


def unwarped_bonus(
    draft: Tensor, draft_probs: Tensor | None, target_logits: Tensor, sampler: Sampler
) -> Tensor:
    """Draws the token after a fully accepted draft at temperature 1 and without cuts."""
    right = accept(draft, draft_probs, target_logits, sampler)
    if sampler.is_greedy or right.numel() <= draft.numel():
        return right
    return torch.cat([right[:-1], sampler.draw(target_logits[-1:].softmax(dim=-1)).cpu()])


def no_residual(draft: Tensor, draft_probs: Tensor | None, target_logits: Tensor, sampler: Sampler) -> Tensor:
    """Replaces a rejected token by a draw from the target and not from what it still owes."""
    right = accept(draft, draft_probs, target_logits, sampler)
    if sampler.is_greedy or right.numel() > draft.numel():
        return right
    return torch.cat([right[:-1], sampler.pick(target_logits[right.numel() - 1 : right.numel()]).cpu()])


def greedy_whatever_the_sampler(
    draft: Tensor, draft_probs: Tensor | None, target_logits: Tensor, sampler: Sampler
) -> Tensor:
    """Accepts by argmax under a sampler that draws."""
    return accept_greedy(draft, target_logits)


def second_chance(tree: Tree, tokens: Tensor, target_logits: Tensor, sampler: Sampler) -> Accepted:
    """Draws twice and keeps what accepts more."""
    first = accept_tree(tree, tokens, target_logits, sampler)
    second = accept_tree(tree, tokens, target_logits, sampler)
    return max(first, second, key=lambda accepted: len(accepted.path))


def _guess(decoder: Decoder, token: Tensor) -> Tensor:
    """Draft logits [1, V] after a token [1]: the head on its embedding and the first layer's MLP."""
    place = decoder.placement.chain(0, 1)  # not looked at: the one attention is left out
    return decoder.head(decoder.run_layers(decoder.embed(token), place, 0, 1, skip=_NO_ATTENTION))


HONEST = (Control("honest chain", "", Chain), Control("honest tree", "", Branches))
CONTROLS = (
    Control("off-by-one acceptance", "greedy", lambda: Chain(one_too_many)),
    Control("stale rows after a tree", "greedy", StaleRows),
    Control("wrong position after compaction", "greedy", WrongPosition),
    Control("verification unlike plain passes", "premises", UnevenPasses),
    Control("state left by the prompt before", "greedy", LeftoverState),
    Control("unwarped bonus token", "sampling", lambda: Chain(unwarped_bonus)),
    Control("dropped residual", "sampling", lambda: Chain(no_residual)),
    Control("argmax acceptance under sampling", "sampling", lambda: Chain(greedy_whatever_the_sampler)),
    Control("stop that depends on the drawn token", "sampling", TokenDependentStop),
    Control("second draw in a tree", "sampling", lambda: Branches(second_chance)),
)
TRIED = (*CONTROLS, *HONEST)
"""All variants that the checks are tried on, in the order they are listed."""
