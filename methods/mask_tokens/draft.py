"""Mask tokens: placeholders in the embedding space are read as future tokens, arXiv 2603.17942 (ICML 2026).

The paper calls it embedding-space probing (ESP). A *mask token* is a row that enters the first layer in place
of the embedding of a token not yet known: the mean of the prompt's embeddings, moved towards every accepted
token's embedding by a share lambda. The frozen target runs k of them after every node of a tree, in the pass
that verifies the tree, and its own head reads them: mask i after a token at position q drafts position q + i
+ 1. The masks of the node where verification ends draft the next tree. It holds the nodes whose product of
probabilities is largest; a token is not drafted directly after itself.

A worked round after a prompt of 10 tokens, with k = 2 masks:

    root       the prompt's last row, at position 9, chose "The" for position 10; two masks at positions 10
               and 11 ran after the prompt
    draft      the first mask says "cat" 0.5, "dog" 0.3, the second "sat" 0.8; of three nodes the likeliest
               are The cat (0.5), The cat sat (0.4), The dog (0.3)
    verify     one pass of 4 rows and their 8 masks; the target chooses "cat" after "The", "ran" after "cat"
    emitted    "cat" is accepted, "ran" is the next root: drafted 3, accepted 1, emitted 2
    cache      12 tokens: the prompt, "The" and "cat"; the masks of "cat" draft the next tree

An independent re-implementation from the abstract and summaries by others: neither the paper's text nor code
was available. Our decisions:
- the block complexity, rows of a pass, is (k + 1) times the nodes with the root, as summaries say;
- the tree holds the nodes with the largest products, whatever their depth; the paper grows it layer by layer
  from its likeliest nodes (algorithm 1), which no summary states exactly;
- a mask sees what its token sees and the token's earlier masks, at rotary position q + i;
- after the prompt, and only there, the masks run in a small pass of their own;
- every token counts once in the moving mean, when it enters the cache; all masks share the same row;
- probabilities are those at temperature 1. Under sampling, the target's own pick at every node decides.

Shapes: k masks, N nodes with the root, K candidates per depth, d width.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftVocab, Sampler
from bench.runtime.transfer import upload
from methods.core.base import Traits
from methods.core.tree_round import TreeDraft, TreeMethod
from methods.core.trees import Path, Tree
from methods.hidden_transfer.pseudo_rows import Transfer


class MaskTokens(TreeMethod):
    """Tree drafting from placeholder rows.

    Args:
        masks: Placeholders after every node (k): depth of the deepest draft.
        block: Rows of a verification, masks included, at most.
        update: Share of the way that the mask moves towards an accepted token's embedding (lambda).
        draft_vocab: How many of the most frequent tokens may be drafted; None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "mask_tokens"
    traits = Traits(is_reimplementation=True)

    def __init__(
        self,
        *,
        masks: int,
        block: int,
        update: float,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        if masks < 1:
            raise ValueError(f"masks must be at least 1, got {masks}")
        if block < 2 * (masks + 1):
            raise ValueError(f"block must be at least {2 * (masks + 1)} with {masks} masks, got {block}")
        if not 0 <= update <= 1:
            raise ValueError(f"update must lie in [0, 1], got {update}")
        self._masks, self._nodes, self._update = masks, block // (masks + 1), update
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)

    def attach(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._head = self._vocab.head(decoder)
        self._width = min(self._nodes, self._head.size)  # one more than fit, as one may be left out

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._mask = self._decoder.embed(prompt_ids).mean(dim=0, keepdim=True)  # [1, d]
        self._probed: Tensor | None = None
        return super().prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        depth, nodes = min(room, self._masks), min(self._nodes, slots // (1 + self._masks))
        is_whole = (depth, nodes) == (self._masks, self._nodes)
        stop = "length" if is_whole else "budget"
        if depth < 1 or nodes < 2:
            return TreeDraft(Tree.chain(0, root.device), root, stop)
        rows = self._after_prompt(base) if self._probed is None else self._probed
        best = self._head(rows[:depth]).float().softmax(dim=-1).topk(self._width, dim=-1)  # [k, K]
        candidates = self._head.tokens(best.indices)
        known = torch.cat([root.expand(1, self._width), candidates]).double()
        table = torch.stack([F.pad(best.values, (0, 0, 1, 0), value=1.0).double(), known])
        (_, *chances), ((first, *_), *tokens) = table.tolist()  # the one host sync of a draft
        paths = likely_paths(chances, tokens, first, nodes - 1)
        tree = tree_of(paths, root.device)
        return TreeDraft(tree, tree.gather(root, candidates), stop)

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        self._tokens, count = draft.tokens, draft.tree.size
        self._probed = None
        if count == 1:  # the end of the budget or of the cache: there is no next tree to draft
            return self._decoder.step(draft.tokens, base)
        decoder = self._decoder
        offsets, sees = layout(draft.tree, self._masks)
        rows = torch.cat([decoder.embed(draft.tokens), self._mask.expand(self._masks * count, -1)])
        rows = decoder.run_layers(rows, decoder.placement.tree(base, offsets, sees))
        self._probed = rows[count:].view(self._masks, count, -1)
        return decoder.head(rows[:count])

    def commit(self, path: tuple[int, ...], base: int) -> None:
        """Keep the masks of the last accepted node, and move the mask towards all accepted tokens."""
        if self._probed is not None:
            self._probed = self._probed[:, path[-1]]  # [k, d]
        accepted = self._tokens[upload(torch.tensor(path), self._tokens.device)]
        for row in torch.split(self._decoder.embed(accepted), 1):
            self._mask = self._mask + self._update * (row - self._mask)

    def _after_prompt(self, base: int) -> Tensor:
        """Rows [k, d] of the masks after the last cached token, in a pass of their own."""
        decoder = self._decoder
        place = decoder.placement.chain(base, self._masks)
        rows = decoder.run_layers(self._mask.expand(self._masks, -1).contiguous(), place)
        decoder.cache.truncate(base)
        return rows


def likely_paths(
    chances: Sequence[Sequence[float]], tokens: Sequence[Sequence[float]], root: float, count: int
) -> tuple[Path, ...]:
    """The paths with the largest products of probabilities; fewer if there are no more.

    Args:
        chances: Probability of every candidate by depth and rank, D lists of K.
        tokens: Token id of every candidate, likewise.
        root: Token id of the root.
        count: Paths wanted.
    """
    waiting: list[tuple[float, Path, float]] = [(-1.0, (), root)]
    paths: list[Path] = []
    while waiting and len(paths) <= count:
        product, path, token = heapq.heappop(waiting)
        paths.append(path)
        if len(path) < len(chances):
            below = zip(chances[len(path)], tokens[len(path)], strict=True)
            for rank, (chance, child) in enumerate(below):
                if child != token:
                    heapq.heappush(waiting, (product * chance, (*path, rank), child))
    return tuple(paths[1:])


@lru_cache(maxsize=1024)  # the trees of similar rounds repeat
def tree_of(paths: tuple[Path, ...], device: torch.device) -> Tree:
    """The tree of these paths."""
    return Tree.of_paths(paths, device)


@lru_cache(maxsize=1024)
def layout(tree: Tree, masks: int) -> tuple[Tensor, Tensor]:
    """Positions relative to the root's, and visibility, of N nodes and their k N masks.

    Returns:
        Shapes [N + k N] and [N + k N, N + k N]: the nodes, then the first mask of every node, and so on.
    """
    ahead = torch.arange(masks + 1, device=tree.offsets.device)[:, None]
    nodes = F.pad(tree.sees, (0, masks * tree.size))  # no node sees a mask
    sees = torch.cat([nodes, Transfer((0,) * masks).sees(tree.sees)])
    return (tree.offsets + ahead).flatten(), sees
