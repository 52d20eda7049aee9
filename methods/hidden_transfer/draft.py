"""Hidden transfer: pseudo hidden states of future tokens, drafted and verified in one pass, arXiv 2404.12022.

Partway up the layers, a trained projection turns the row of a token into *pseudo rows* for tokens further
ahead. They run through the remaining frozen layers together with the real rows, see them, and are read by the
target's own LM head: step i of a token at position q drafts position q + i + 1. The pass that verifies a tree
also computes the pseudo rows of all its nodes; those of the node where verification ends draft the next tree.

A worked round after a prompt of 10 tokens, with k = 2 steps that enter at layer 15 of 24:

    root       the prompt's last row, at position 9, chose "The" for position 10 and has two pseudo rows
    draft      the head reads "cat" and "dog" for position 11 from the first pseudo row, and "sat" for
               position 12 from the second; the paths of the tree are The cat sat, The dog
    verify     one pass: 4 rows in layers 0 to 14, these and their 8 pseudo rows in layers 15 to 23; the
               target chooses "cat" after "The" and "ran" after "The cat"
    emitted    "cat" is accepted, "ran" is the next root: drafted 3, accepted 1, emitted 2
    cache      12 tokens: the prompt, "The" and "cat"; the pseudo rows of "cat" draft the next tree

An independent re-implementation from the abstract, the figures' titles and secondary sources: neither the
paper's text nor its code was available, so no published number can be compared with it. Our decisions:
- k = 3 steps, each projected from the real row, without bias; by default they enter at 5/8 of the depth. A
  lower entry is more accurate and costs more layers: those shipped for the embedded model enter at 3/16;
- a pseudo row sees what its token sees and the token's earlier pseudo rows, at rotary position q + i;
- every node has pseudo rows of its own; the tree is static; sampling follows the target's own picks;
- trained with KL(target || step) over the target's 64 likeliest tokens, all steps jointly with equal weight,
  on a seeded choice of each sequence's answer positions (`methods.hidden_transfer.module`).

Shapes: k steps, N real rows (tree nodes), T positions, d width, K candidates per depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.modules import load_module, load_provenance
from bench.runtime.sampling import DraftVocab, Sampler
from methods.core.base import ModuleTrainer, Traits
from methods.core.tree_choice import TreeSpec, choose_tree
from methods.core.tree_round import TreeDraft, TreeMethod
from methods.core.trees import Tree
from methods.hidden_transfer.pseudo_rows import Transfer, TransferSettings, pseudo_rows

WEIGHT = "projections"

DEFAULT_TREE = {"": 8, "0": 5, "1": 3, "2": 2, "3": 1, "00": 3, "01": 1, "02": 1, "10": 1}
"""25 nodes and the root, uncalibrated; for fewer steps its first depths."""


class HiddenTransfer(TreeMethod):
    """Tree drafting from pseudo rows.

    Args:
        weights: Folder of the projections, or None to train them.
        steps: Drafted positions (k); None takes what the weights were trained for, or 3 for new ones.
        enter: Share of the depth at which step 1 enters, in [0, 1]; None as above, or 5/8.
        stride: Layers between the entries of consecutive steps; 0 lets all enter together.
        source: ``real`` or ``chain``, see `Transfer`.
        isolate: See `Transfer`.
        tree: What to draft, see `methods.core.tree_choice`; None takes the tree stored with the weights, or
            `DEFAULT_TREE` where calibration has stored none.
        two_phase: Run the pseudo rows of the accepted node alone, in a partial pass after verification; None
            takes what calibration stored with the weights, else False.
        anchors: Most positions of a sequence that training, or a step of calibration, takes at once.
        draft_vocab: How many of the most frequent tokens may be drafted (N); None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "hidden_transfer"
    traits = Traits(is_reimplementation=True)
    schedules: tuple[Mapping[str, Any], ...] = ({"two_phase": False}, {"two_phase": True})

    def __init__(
        self,
        *,
        weights: str | None,
        steps: int | None,
        enter: float | None,
        stride: int | None,
        source: str,
        isolate: bool,
        tree: TreeSpec | None,
        two_phase: bool | None,
        anchors: int,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        if anchors < 1:
            raise ValueError(f"anchors must be at least 1, got {anchors}")
        self._weights = None if weights is None else Path(weights)
        self._settings = TransferSettings(steps, enter, stride, source, isolate)
        self._configured_tree = tree
        self._configured_phases, self._two_phase = two_phase, bool(two_phase)
        self._anchors = anchors
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)

    def attach(self, decoder: Decoder) -> None:
        if self._weights is None:
            raise UserError(
                "hidden_transfer needs the weights of its projections and method.weights is not set",
                "set it to their folder, or train them: python -m bench.train method=hidden_transfer",
            )
        facts = load_provenance(self._weights, self.name)
        transfer = Transfer(tuple(facts["layers"]), str(facts["source"]), bool(facts["isolate"]))
        configured = self._settings.transfer(decoder.depth, transfer.layers)
        if configured != transfer:
            raise UserError(
                f"the projections in {self._weights} were trained as {transfer}, not as {configured}",
                "leave method.steps, enter and stride null and set source and isolate as trained, or train "
                "new projections",
            )
        shape = (len(transfer.layers), decoder.config.width, decoder.config.width)
        tensors = load_module(self._weights, {WEIGHT: shape}, decoder.embedding)
        default = {path: count for path, count in DEFAULT_TREE.items() if len(path) < shape[0]}
        stored = facts.get("tree", default)
        if self._configured_phases is None:
            self._two_phase = bool(facts.get("two_phase", False))
        tree = choose_tree(self._configured_tree, stored, shape[0], self.name, decoder.device)
        self.use(decoder, tensors[WEIGHT], transfer, tree)

    def use(self, decoder: Decoder, projections: Tensor, transfer: Transfer, tree: Tree) -> None:
        """Bind to a decoder, with the projections [k, d, d]; steps deeper than the tree do not run."""
        self._decoder, self._tree = decoder, tree
        self._head = self._vocab.head(decoder, least=tree.width)
        self._transfer = replace(transfer, layers=transfer.layers[: tree.depth])
        self._projections = projections[: tree.depth]
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
                rows = torch.cat([rows, F.linear(source, self._projections[active - 1])])
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
            rows = torch.cat([rows, F.linear(source, self._projections[active - 1])])
            if start < stop:
                place = decoder.placement.tree(base, offsets[:active], sees[:active, :active])
                rows = decoder.run_layers(rows, place, start, stop)
        decoder.cache.truncate(base)
        return rows

    def candidates(self, ids: Tensor, width: int) -> Tensor:
        """See `methods.core.tree_round.Calibratable`."""
        decoder, count = self._decoder, ids.numel()
        hidden = dict.fromkeys(range(decoder.depth + 1), decoder.embedding)
        decoder.prefill(ids, hidden)
        places = torch.arange(count, device=ids.device)
        rows = [
            pseudo_rows(self._transfer, self._projections, hidden, places, chunk, decoder)
            for chunk in torch.split(places, self._anchors)  # bounds the attention
        ]
        best = self._head.best(self._head(torch.cat(rows, dim=1).flatten(0, 1)), width)
        return best.view(-1, count, width).transpose(0, 1)  # [T, D, K]

    def _entry_taps(self) -> dict[int, Tensor]:
        return dict.fromkeys(self._transfer.layers, self._decoder.embedding)

    def trainer(self) -> ModuleTrainer:
        """See `methods.core.base.Trainable`."""
        from methods.hidden_transfer.module import HiddenTransferTrainer

        return HiddenTransferTrainer(self.name, self._settings, self._anchors)
