"""Kangaroo with a draft tree: our re-implementation of the NeurIPS version of arXiv 2404.18911.

Its code was never released. Known are ten candidates per node, a threshold of 0.4, and that width and depth
follow the drafter's own probabilities. The scoring below is our reconstruction, so results are labelled a
re-implementation.

The tree grows level by level: the nodes of the newest level pass through the first layers of the target and
the adapter. The score of a child is the product of draft probabilities (temperature 1) along its path. Of all
children of a level the `width` best form the next level, if their score reaches the threshold. The best child
of the top-1 chain is always among them, so a round drafts at least one token, and as in the chain version the
token that ends a draft is verified too. A level without a child that reaches the threshold ends the draft.
Candidates are chosen and never sampled, so `methods.core.acceptance.accept_tree` is exact under sampling.

Shapes: F nodes of the newest level, K children per node, d width, N tokens that may be drafted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bench.records.model import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftHead, Sampler
from bench.runtime.transfer import upload
from methods.core.base import Budget, Clock, Traits
from methods.core.tree_round import TreeDraft, generate_tree
from methods.core.trees import GrowingMarks, Tree, compact
from methods.kangaroo.draft import Kangaroo


class KangarooTree(Kangaroo):
    """Early-exit drafting of a tree through the adapter of the chain version.

    Args:
        weights: Folder of the adapter's module, or None to train one.
        exit_layer: As for `Kangaroo`.
        depth: Depth of the deepest node (gamma).
        width: Children considered per node, and nodes kept per level.
        threshold: Least score of a node (eta), except on the top-1 chain.
        draft_vocab: As for `Kangaroo`, and so is `frequent_tokens`.
    """

    traits = Traits(is_reimplementation=True)  # no code was ever released: tables say so

    def __init__(
        self,
        *,
        weights: str | None,
        exit_layer: int | None,
        depth: int,
        width: int,
        threshold: float,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        super().__init__(
            weights=weights,
            exit_layer=exit_layer,
            draft_length=depth,
            threshold=threshold,
            draft_vocab=draft_vocab,
            frequent_tokens=frequent_tokens,
        )
        self._width = width

    def use(self, decoder: Decoder, tensors: Mapping[str, Tensor], exit_layer: int) -> None:
        super().use(decoder, tensors, exit_layer)
        beam = _Beam(self._width, self._threshold, self._draft_length)
        self.drafter = _TreeDrafter(decoder, self._adapter, self._head, exit_layer, beam, self.prefill)

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        return generate_tree(self.drafter, self._decoder, prompt_ids, budget, sampler, clock)


class _Beam:
    """The rule by which a tree grows; see the module's docstring."""

    def __init__(self, width: int, threshold: float, depth: int) -> None:
        self.width, self.threshold, self.depth = width, threshold, depth

    def start(self) -> None:
        """Begin with the root alone."""
        self.parents, self.ranks = [-1], [0]
        self.level = range(1)  # nodes of the newest level
        self.depth_reached = 0
        self._scores: Tensor | None = None  # of the newest level, shape [F]; the root's is 1
        self._chain = 0  # newest node of the top-1 chain

    def extend(self, logits: Tensor, slots: int) -> tuple[Tensor, bool]:
        """Add a level. Waits once for the device, to learn which nodes it has.

        Args:
            logits: Draft logits after the nodes of the newest level, shape [F, N].
            slots: Most nodes to add, at least 1.

        Returns:
            Columns of the logits of the new nodes, in order, and whether any of them reaches the threshold.
        """
        width = min(self.width, logits.shape[-1])
        probs, places = logits.float().softmax(dim=-1).topk(width, dim=-1)  # [F, K]
        products = (probs if self._scores is None else probs * self._scores[:, None]).flatten()
        best = products.topk(min(self.width, slots, products.numel()))
        children, scores = _read(best.indices, best.values)  # child = parent * K + rank
        kept = [child for child, score in zip(children, scores, strict=True) if score >= self.threshold]
        is_sure = bool(kept)
        forced = (self._chain - self.level.start) * width
        if forced not in kept:
            kept = [*kept[: slots - 1], forced]
        kept.sort()
        chosen = upload(torch.tensor(kept), places.device)
        self._scores = products[chosen]
        self.newest_parents = chosen // width + self.level.start
        self._append(kept, width, forced)
        return places.flatten()[chosen], is_sure

    def _append(self, kept: list[int], width: int, forced: int) -> None:
        end = len(self.parents)
        self.parents += [self.level.start + child // width for child in kept]
        self.ranks += [child % width for child in kept]
        self.level = range(end, end + len(kept))
        self.depth_reached += 1
        self._chain = end + kept.index(forced)


def _read(children: Tensor, scores: Tensor) -> tuple[list[int], list[float]]:
    """Both on the host, in one copy; numbers of children are small enough to be exact in fp32."""
    numbers, values = torch.stack([children.to(scores.dtype), scores]).tolist()
    return [int(number) for number in numbers], values


class _TreeDrafter:
    """Runs the levels of a tree; implements `methods.core.tree_round.TreeDrafter`.

    The first layers of the target hold every node at slot ``base + node``, and so does the adapter, except
    for nodes of the newest level, which it has not read. If the accepted path ends in such a node, its row is
    carried over and passes the adapter together with the next root.
    """

    def __init__(
        self,
        decoder: Decoder,
        adapter: Decoder,
        head: DraftHead,
        exit_layer: int,
        beam: _Beam,
        prefill: Callable[[Tensor], Tensor],
    ) -> None:
        self._decoder, self._adapter, self._head, self._exit = decoder, adapter, head, exit_layer
        self._beam, self._prefill = beam, prefill

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._carried = self._decoder.embedding[:0]
        return self._prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        beam, limit = self._beam, min(self._beam.depth, room)
        beam.start()
        marks, tokens = GrowingMarks(root), [root]
        self._rows = [self._shallow(marks, root, base, 0)]
        self._adapted = 0
        stop = "length" if self._beam.depth <= room else "budget"
        while beam.depth_reached < limit and len(beam.parents) < slots and stop != "confidence":
            places, is_sure = beam.extend(self._adapt(), slots - len(beam.parents))
            added = self._head.tokens(places)
            self._adapted = beam.level.start
            marks.add(beam.newest_parents, beam.depth_reached)
            tokens.append(added)
            self._rows.append(self._shallow(marks, added, base, beam.level.start))
            stop = stop if is_sure else "confidence"
        tree = Tree(beam.parents, beam.ranks, root.device, marks)
        return TreeDraft(tree, torch.cat(tokens), stop, self._exit)

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        decoder = self._decoder
        place = decoder.placement.tree(base, draft.tree.offsets, draft.tree.sees)
        return decoder.head(decoder.run_layers(torch.cat(self._rows), place, self._exit))

    def commit(self, path: tuple[int, ...], base: int) -> None:
        adapted = [node for node in path if node < self._adapted]
        compact(self._adapter.cache, base, adapted)
        newest = torch.cat(self._rows)[path[-1] : path[-1] + 1]
        self._carried = newest if len(adapted) < len(path) else newest[:0]

    def _shallow(self, marks: GrowingMarks, tokens: Tensor, base: int, first: int) -> Tensor:
        """Rows [F, d] that leave the first layers, of the nodes from `first` on."""
        decoder = self._decoder
        self._place = decoder.placement.tree(base, marks.offsets, marks.sees, first=first)
        return decoder.run_layers(decoder.embed(tokens), self._place, 0, self._exit)

    def _adapt(self) -> Tensor:
        """Draft logits [F, N] after the newest level; a carried row goes first, in the root's pass."""
        adapter, head, rows = self._adapter, self._head, self._rows[-1]
        if self._adapted == 0:
            rows = torch.cat([self._carried, rows])
            place = adapter.placement.chain(adapter.cache.length, rows.shape[0])
            return head(adapter.run_layers(rows, place)[-1:])
        return head(adapter.run_layers(rows, self._place))  # in the adapter a node has the same slot
