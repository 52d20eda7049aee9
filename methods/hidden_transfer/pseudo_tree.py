"""A draft tree whose candidates come from pseudo rows, which run in the same pass as verification.

Every node of a tree spawns one pseudo row per step: a row of a token that is not yet known, some places
ahead. When the round has ended, the pseudo rows of the last accepted node give the candidates of the next
tree. How a pseudo row begins is what a subclass says (`PseudoRowTree.enter`).

Shapes: k steps, N tree nodes with the root, K candidates per depth, d width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftVocab, Sampler
from methods.core.tree_round import TreeDraft, TreeMethod
from methods.core.trees import Tree
from methods.hidden_transfer.pseudo_rows import Transfer


class PseudoRowTree(TreeMethod):
    """Tree drafting from pseudo rows; a subclass calls `bind` when it is attached.

    Args:
        vocab: Tokens that may be drafted.
        two_phase: Run the pseudo rows of the accepted node alone, in a partial pass after verification.
    """

    def __init__(self, vocab: DraftVocab, *, two_phase: bool) -> None:
        self._vocab, self._two_phase = vocab, two_phase

    def enter(self, step: int, source: Tensor) -> Tensor:
        """What the pseudo rows of a step start as.

        Args:
            step: Counts from 1.
            source: Rows that they start from, shape [N, d], see `Transfer.source`.

        Returns:
            Shape [N, d].
        """
        raise NotImplementedError

    def bind(self, decoder: Decoder, transfer: Transfer, tree: Tree) -> None:
        """Bind to a decoder; steps deeper than the tree do not run."""
        self._decoder, self._tree = decoder, tree
        self._head = self._vocab.head(decoder, least=tree.width)
        self._transfer = replace(transfer, layers=transfer.layers[: tree.depth])
        self._layouts: dict[int, tuple[Tensor, Tensor]] = {}
        itself = torch.ones(1, 1, dtype=torch.bool, device=decoder.device)
        offsets = torch.arange(tree.depth, device=decoder.device)
        self._root_layout = offsets, self._transfer.sees(itself)[:, 1:]

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        taps = self._entry_taps()
        logits = self._decoder.prefill(prompt_ids, taps)
        self._anchor = {layer: rows[-1:] for layer, rows in taps.items()}
        count = prompt_ids.numel()
        is_later = self._two_phase or self._decoder.capacity - count < len(self._transfer.layers)
        self._pseudo = None if is_later else self._rows_after_anchor(count)
        return logits

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        steps = len(self._transfer.layers)
        rows_per_node = 1 if self._two_phase else 1 + steps  # pseudo rows take scratch slots after the tree
        tree = self._tree.fit(room if slots >= steps else 0, slots // rows_per_node)
        stop = "length" if tree is self._tree else "budget"
        if tree.size == 1:
            return TreeDraft(tree, root, stop)
        rows = self._rows_after_anchor(base) if self._pseudo is None else self._pseudo
        candidates = self._head.best(self._head(rows), tree.width)  # [k, K]
        return TreeDraft(tree, tree.gather(root, candidates), stop)

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        decoder, tree = self._decoder, draft.tree
        hidden = decoder.embed(draft.tokens)
        self._pseudo = None
        if self._two_phase:
            self._taps = self._entry_taps()
            place = decoder.placement.tree(base, tree.offsets, tree.sees)
            return decoder.head(decoder.run_layers(hidden, place, taps=self._taps))
        rows = self._run_with_pseudo(hidden, tree, base)
        self._pseudo = rows[tree.size :].view(rows.shape[0] // tree.size - 1, *hidden.shape)  # [k, N, d]
        return decoder.head(rows[: tree.size])

    def commit(self, path: tuple[int, ...], base: int) -> None:
        last = path[-1]
        if self._pseudo is None:
            self._anchor = {layer: rows[last : last + 1] for layer, rows in self._taps.items()}
        else:
            self._pseudo = self._pseudo[:, last]  # [k, d]

    def _run_with_pseudo(self, hidden: Tensor, tree: Tree, base: int) -> Tensor:
        """Real rows [N, d] and the pseudo rows they spawn through all layers, shape [N + k N, d].

        Pseudo rows write their keys and values after those of the real rows, and the commit drops them. A
        root alone means the end of the budget or of the cache: it spawns none.
        """
        decoder, count = self._decoder, tree.size
        offsets, sees = self._layout(tree)
        rows = hidden
        transfer = self._transfer if count > 1 else Transfer(())
        for active, start, stop in transfer.spans(decoder.depth):
            if active:
                source = rows[:count] if transfer.source == "real" else rows[-count:]
                rows = torch.cat([rows, self.enter(active, source)])
            if start < stop:
                width = rows.shape[0]
                place = decoder.placement.tree(base, offsets[:width], sees[:width, :width])
                rows = decoder.run_layers(rows, place, start, stop)
        return rows

    def _layout(self, tree: Tree) -> tuple[Tensor, Tensor]:
        """Positions relative to the root's and visibility of all N + k N rows of a pass over `tree`."""
        if tree.size not in self._layouts:
            steps = len(self._transfer.layers)
            ahead = torch.arange(steps + 1, device=tree.offsets.device)[:, None]
            real = F.pad(tree.sees, (0, steps * tree.size))  # no real row sees a pseudo row
            sees = torch.cat([real, self._transfer.sees(tree.sees)])
            self._layouts[tree.size] = (tree.offsets + ahead).flatten(), sees
        return self._layouts[tree.size]

    def _rows_after_anchor(self, base: int) -> Tensor:
        """Pseudo rows [k, d] of the last committed row, at ``base - 1``, in a partial pass of their own."""
        decoder, transfer = self._decoder, self._transfer
        offsets, sees = self._root_layout
        rows = decoder.embedding[:0]
        for active, start, stop in transfer.spans(decoder.depth)[1:]:
            source = self._anchor[start] if active == 1 or transfer.source == "real" else rows[-1:]
            rows = torch.cat([rows, self.enter(active, source)])
            if start < stop:
                place = decoder.placement.tree(base, offsets[:active], sees[:active, :active])
                rows = decoder.run_layers(rows, place, start, stop)
        decoder.cache.truncate(base)
        return rows

    def _entry_taps(self) -> dict[int, Tensor]:
        return dict.fromkeys(self._transfer.layers, self._decoder.embedding)
