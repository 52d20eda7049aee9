"""Token Recycling, arXiv 2408.08696: drafts from the successors that the target considered before.

A matrix holds, for every token of the vocabulary, the K most likely successors that the target gave when the
token was last verified, whether it was accepted or not (section 3.1). A fixed tree is filled from it: the
candidates below a node are the matrix row of the node's token (section 3.2). After verification all nodes of
the tree update the matrix (section 3.3). Nothing is trained; the only state is the matrix of V x K ids.

The matrix is kept from one prompt to the next, as in the paper: the method learns over a run, so its speed
depends on the order of the prompts. It is reset at the start of a run and after the warm-up; a resumed run
starts from an empty matrix.

Differs from the authors' code in:
- the matrix is updated after an answer's last round too, and not for the last token of the prompt; there the
  decoding ends before the update, and that token is the first root. ``authors_updates=true`` does as they do;
- if one of the last few prompts is decoded again, the matrix is first set back to what it was before that
  prompt: a repeat that drafts from its own answer would measure something else (on the embedded model 14 %
  more tokens per pass);
- a token without history proposes ids 0 .. K - 1 (there, id 0 K times), since siblings must differ;
- if a token is at several nodes, the successors of the last node are kept by rule (there, by chance);
- sampling is exact: the target picks at every node (`methods.core.acceptance.accept_tree`);
- the tree shrinks to the remaining budget and to the free cache slots.

Shapes: N tree nodes with the root, K candidates per token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from methods.core.tree_round import TreeDraft, TreeMethod
from methods.core.trees import Tree

PUBLISHED_TREE: Mapping[str, int] = {
    **{"": 8, "0": 8, "1": 4, "2": 3, "3": 2, "4": 1, "5": 1, "6": 1, "7": 1},
    **{"00": 8, "01": 3, "02": 2, "03": 1, "04": 1, "05": 1, "06": 1, "07": 1},
    **{"10": 2, "11": 1, "20": 1, "30": 1, "40": 1, "50": 1},
    **{"000": 5, "001": 2, "002": 1, "003": 1, "004": 1, "010": 1, "020": 1, "100": 1, "200": 1, "300": 1},
    **{"0000": 3, "0001": 1, "0002": 1, "0010": 1, "0100": 1, "1000": 1},
    **{"00000": 2, "00010": 1},
}
"""The authors' tree of 80 nodes and the root, as child counts by path."""

REMEMBERED_PROMPTS = 8
"""Number of recent prompts that are recognised when decoded again: the turns of a conversation."""


class TokenRecycling(TreeMethod):
    """Tree drafting from a matrix of recent successors.

    Args:
        candidates: Successors kept per token (K).
        tree: Child counts by path, see `methods.core.trees.Tree.of_child_counts`; None is `PUBLISHED_TREE`.
        authors_updates: Learn the successors of the prompt's last token, and none in an answer's last round.
    """

    def __init__(
        self, *, candidates: int, tree: Mapping[str, int] | None, authors_updates: bool = False
    ) -> None:
        self._counts = PUBLISHED_TREE if tree is None else {str(path): count for path, count in tree.items()}
        shape = Tree.of_child_counts(self._counts)
        if shape.size == 1 or candidates < shape.width:
            raise ValueError(
                f"need a tree with nodes and as many candidates as its widest node has children, got "
                f"{shape.size - 1} nodes, {shape.width} children and candidates={candidates}"
            )
        self._candidates, self._authors_updates = candidates, authors_updates
        self._verified: tuple[Tensor, Tensor] | None = None  # nodes and logits that await the next draft

    def attach(self, decoder: Decoder) -> None:
        if self._candidates > decoder.config.vocab:
            raise UserError(
                f"token_recycling keeps {self._candidates} candidates of only {decoder.config.vocab} tokens",
                "lower method.candidates, and method.tree with it",
            )
        self._decoder = decoder
        self._tree = Tree.of_child_counts(self._counts, decoder.device)
        self._levels = _levels(self._tree)
        self.reset()

    def reset(self) -> None:
        """Forget all successors and prompts."""
        row = torch.arange(self._candidates, device=self._decoder.device)
        self._matrix = row.repeat(self._decoder.config.vocab, 1)  # [V, K]
        self._before: dict[tuple[int, ...], Tensor] = {}  # prompt -> matrix before it, oldest first

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._rewind(tuple(prompt_ids.tolist()))
        self._verified = None
        logits = super().prefill(prompt_ids)
        if self._authors_updates:
            self._learn(prompt_ids[-1:], logits)
        return logits

    def _rewind(self, prompt: tuple[int, ...]) -> None:
        """Set the matrix back for a repeated prompt; remember it for a new one."""
        if prompt in self._before:
            self._matrix = self._before[prompt].clone()
            return
        self._before[prompt] = self._matrix.clone()
        if len(self._before) > REMEMBERED_PROMPTS:
            del self._before[next(iter(self._before))]

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        if self._verified is not None:
            self._learn(*self._verified)
        tree, tokens = self._tree.fit(room, slots), root
        for parents, ranks in self._levels[: tree.depth]:
            tokens = torch.cat([tokens, self._matrix[tokens[parents], ranks]])
        return TreeDraft(tree, tokens[: tree.size], "length" if tree is self._tree else "budget")

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        self._tokens, self._logits = draft.tokens, super().verify(draft, base)
        return self._logits

    def commit(self, path: tuple[int, ...], base: int) -> None:
        """Keep the successors that the target gave at every node, whichever were accepted."""
        if self._authors_updates:
            self._verified = self._tokens, self._logits  # learned if another round follows
        else:
            self._learn(self._tokens, self._logits)

    def _learn(self, tokens: Tensor, logits: Tensor) -> None:
        """Update the matrix by the logits [N, V] of tokens [N]."""
        successors = logits.topk(self._candidates, dim=-1).indices  # [N, K]
        nodes = torch.arange(tokens.numel(), device=tokens.device)
        is_same = tokens[:, None] == tokens  # [N, N]
        last = torch.where(is_same, nodes, 0).amax(dim=1)  # of the nodes that hold the same token
        self._matrix[tokens] = successors[last]


def _levels(tree: Tree) -> list[tuple[Tensor, Tensor]]:
    """Parents and ranks of the nodes at depths 1, 2, ..."""
    device, levels = tree.offsets.device, []
    for depth in range(1, tree.depth + 1):
        nodes = [node for node in range(tree.size) if tree.depths[node] == depth]
        parents = torch.tensor([tree.parents[node] for node in nodes], device=device)
        levels.append((parents, torch.tensor([tree.ranks[node] for node in nodes], device=device)))
    return levels
