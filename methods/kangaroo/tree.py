"""Kangaroo with a draft tree: our re-implementation of the NeurIPS version of arXiv 2404.18911.

No code of it was ever released. Known: ten candidates per node, a threshold of 0.4, width and depth that
follow the drafter's own probabilities. The scoring below is our reconstruction (specs section 1.5), so
results are labelled a re-implementation.

Level by level, the nodes of the newest level pass through the shallow layers and the adapter. A child is
worth the product of draft probabilities (temperature 1) along its path. Of all children of a level the
`width` best enter the next, if they are worth the threshold; the best child of the top-1 chain always does,
so a round drafts one token at least and an unsure one is verified, as in the chain version. A level without
a child worth the threshold ends the draft. Candidates are chosen and never drawn, so sampling is exact by
`methods.core.acceptance.accept_tree`.

Shapes: N nodes with the root, F nodes of the newest level, K children per node, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bench.records.model import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from bench.runtime.transfer import upload
from methods.core.base import Budget, Clock, Traits
from methods.core.tree_round import TreeDraft, generate_tree
from methods.core.trees import Tree, compact
from methods.kangaroo.draft import Kangaroo


class KangarooTree(Kangaroo):
    """Early-exit drafting of a tree through the adapter of the chain version.

    Args:
        weights: Folder of the adapter's module, or None to train one.
        exit_layer: As for `Kangaroo`.
        depth: Deepest node (gamma).
        width: Children considered per node, and nodes kept per level.
        threshold: Least product of draft probabilities of a node (eta), but for the top-1 chain.
    """

    traits = Traits(is_reimplementation=True)  # no code was ever released: tables say so

    def __init__(
        self, *, weights: str | None, exit_layer: int | None, depth: int, width: int, threshold: float
    ) -> None:
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        super().__init__(weights=weights, exit_layer=exit_layer, draft_length=depth, threshold=threshold)
        self._width = width

    def use(self, decoder: Decoder, tensors: Mapping[str, Tensor], exit_layer: int) -> None:
        super().use(decoder, tensors, exit_layer)
        beam = _Beam(self._width, self._threshold, self._draft_length)
        self._drafter = _TreeDrafter(decoder, self._adapter, exit_layer, beam, self.prefill)

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        return generate_tree(self._drafter, self._decoder, prompt_ids, budget, sampler, clock)


class _Beam:
    """The rule by which a tree grows; see the module's docstring."""

    def __init__(self, width: int, threshold: float, depth: int) -> None:
        self.width, self.threshold, self.depth = width, threshold, depth

    def start(self) -> None:
        """A root alone."""
        self.parents, self.ranks = [-1], [0]
        self.level = range(1)  # nodes of the newest level
        self._worth = [1.0]
        self._chain = 0  # newest node of the top-1 chain

    def extend(self, logits: Tensor, slots: int) -> tuple[Tensor, bool]:
        """Add a level.

        Args:
            logits: Draft logits behind the nodes of the newest level, shape [F, V].
            slots: Most nodes to add, at least 1.

        Returns:
            Tokens of the new nodes, in order; and whether any of them is worth the threshold.
        """
        probs, tokens = (
            logits.float().softmax(dim=-1).topk(min(self.width, logits.shape[-1]), dim=-1)
        )  # [F, K]
        worth = probs * upload(torch.tensor(self._worth), probs.device)[:, None]
        best = worth.flatten().topk(min(self.width, slots, worth.numel()))
        picks, chances = best.indices.tolist(), worth.flatten().tolist()
        kept = [pick for pick in picks if chances[pick] >= self.threshold]
        is_sure = bool(kept)
        forced = (self._chain - self.level.start) * worth.shape[1]
        if forced not in kept:
            kept = [*kept[: slots - 1], forced]
        kept.sort()
        self._append(kept, [chances[pick] for pick in kept], worth.shape[1], forced)
        return tokens.flatten()[upload(torch.tensor(kept), tokens.device)], is_sure

    def _append(self, kept: list[int], worth: list[float], children: int, forced: int) -> None:
        end = len(self.parents)
        self.parents += [self.level.start + pick // children for pick in kept]
        self.ranks += [pick % children for pick in kept]
        self.level = range(end, end + len(kept))
        self._worth = worth
        self._chain = end + kept.index(forced)


class _TreeDrafter:
    """Runs the levels of a tree; implements `methods.core.tree_round.TreeDrafter`.

    The target's shallow layers hold every node at slot ``base + node``, and so does the adapter for all nodes
    but those of the newest level. If the accepted path ends in such a node, its row is carried over and goes
    through the adapter in front of the next root.
    """

    def __init__(
        self,
        decoder: Decoder,
        adapter: Decoder,
        exit_layer: int,
        beam: _Beam,
        prefill: Callable[[Tensor], Tensor],
    ) -> None:
        self._decoder, self._adapter, self._exit = decoder, adapter, exit_layer
        self._beam, self._prefill = beam, prefill

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._carry = self._decoder.embedding[:0]
        return self._prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        beam, limit = self._beam, min(self._beam.depth, room)
        beam.start()
        tree = Tree(beam.parents, beam.ranks, root.device)
        tokens = [root]
        self._rows = [self._shallow(tree, root, base, 0)]
        self._adapted = 0
        stop = "length" if self._beam.depth <= room else "budget"
        while tree.depth < limit and tree.size < slots and stop != "confidence":
            added, is_sure = beam.extend(self._adapt(tree, base), slots - tree.size)
            self._adapted = tree.size
            tree = Tree(beam.parents, beam.ranks, root.device)
            tokens.append(added)
            self._rows.append(self._shallow(tree, added, base, beam.level.start))
            stop = stop if is_sure else "confidence"
        return TreeDraft(tree, torch.cat(tokens), stop, self._exit)

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        decoder = self._decoder
        place = decoder.placement.tree(base, draft.tree.offsets, draft.tree.sees)
        return decoder.head(decoder.run_layers(torch.cat(self._rows), place, self._exit))

    def commit(self, path: tuple[int, ...], base: int) -> None:
        adapted = [node for node in path if node < self._adapted]
        compact(self._adapter.cache, base, adapted)
        newest = torch.cat(self._rows)[path[-1] : path[-1] + 1]
        self._carry = newest if len(adapted) < len(path) else newest[:0]

    def _shallow(self, tree: Tree, tokens: Tensor, base: int, first: int) -> Tensor:
        """Rows [F, d] leaving the shallow layers for the nodes from `first` on."""
        decoder = self._decoder
        place = decoder.placement.tree(base, tree.offsets, tree.sees, first=first)
        return decoder.run_layers(decoder.embed(tokens), place, 0, self._exit)

    def _adapt(self, tree: Tree, base: int) -> Tensor:
        """Draft logits [F, V] behind the newest level; a carried row goes first, in the root's pass."""
        adapter, rows = self._adapter, self._rows[-1]
        if self._adapted == 0:
            rows = torch.cat([self._carry, rows])
            place = adapter.placement.chain(adapter.cache.length, rows.shape[0])
            return adapter.head(adapter.run_layers(rows, place)[-1:])
        place = adapter.placement.tree(base, tree.offsets, tree.sees, first=self._adapted)
        return adapter.head(adapter.run_layers(rows, place))
