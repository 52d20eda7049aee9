"""Multi-token drafting by mask tokens, without any training: arXiv 2603.17942.

A model that was only trained to predict the next token still says something about later ones: rows of mask
tokens, placed after the newest token, are run through the model, and the logits of mask i propose the token i
places after the next. The mask's embedding is made on the fly: the mean of the prompt's embeddings. The best
tokens of every mask fill a tree, which is verified while the masks of the next round run.

Only the paper's abstract and summaries of it were at hand: an independent re-implementation. Assumed:
- each of the k masks has the same embedding, and only its position differs;
- every node of the tree has masks of its own, as hidden transfer's nodes have pseudo rows, so that one pass
  both verifies and proposes;
- the tree's shape is fixed (there, top candidates are pruned by their probability in every round).

Shapes: k masks, d width.
"""

from __future__ import annotations

from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftVocab
from methods.core.base import Traits
from methods.core.tree_choice import TreeSpec, choose_tree
from methods.hidden_transfer.pseudo_rows import Transfer
from methods.hidden_transfer.pseudo_tree import PseudoRowTree

DEFAULT_TREE = {"": 4, "0": 2, "1": 1, "00": 1}
"""Child counts by path: nine nodes with the root, a guess at what pays while many rows still cost little."""


class MaskTokens(PseudoRowTree):
    """Tree drafting from the rows of mask tokens.

    Args:
        masks: Mask tokens after every node (k), which is how deep a tree can be.
        tree: What to draft, see `methods.core.tree_choice`; None takes `DEFAULT_TREE`.
        two_phase: Run the masks of the accepted node alone, in a pass after verification.
        draft_vocab: How many of the most frequent tokens may be drafted; None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "mask_tokens"
    traits = Traits(is_reimplementation=True)

    def __init__(
        self,
        *,
        masks: int,
        tree: TreeSpec | None,
        two_phase: bool,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        if masks < 1:
            raise ValueError(f"masks must be at least 1, got {masks}")
        super().__init__(DraftVocab(draft_vocab, frequent_tokens), two_phase=two_phase)
        self._masks, self._configured_tree = masks, tree

    def attach(self, decoder: Decoder) -> None:
        default = {path: count for path, count in DEFAULT_TREE.items() if len(path) < self._masks}
        tree = choose_tree(self._configured_tree, default, self._masks, self.name, decoder.device)
        self.bind(decoder, Transfer((0,) * self._masks), tree)

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._mask = self._decoder.embed(prompt_ids).mean(dim=0)
        return super().prefill(prompt_ids)

    def enter(self, step: int, source: Tensor) -> Tensor:
        """The mask's embedding for every row; the positions tell the steps apart."""
        return self._mask.expand_as(source)
