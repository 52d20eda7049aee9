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
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.modules import load_module, load_provenance
from bench.runtime.sampling import DraftVocab
from methods.core.base import ModuleTrainer, Traits
from methods.core.tree_choice import TreeSpec, choose_tree
from methods.core.trees import Tree
from methods.hidden_transfer.pseudo_rows import Transfer, TransferSettings, pseudo_rows
from methods.hidden_transfer.pseudo_tree import PseudoRowTree

WEIGHT = "projections"

DEFAULT_TREE = {"": 8, "0": 5, "1": 3, "2": 2, "3": 1, "00": 3, "01": 1, "02": 1, "10": 1}
"""25 nodes and the root, uncalibrated; for fewer steps its first depths."""


class HiddenTransfer(PseudoRowTree):
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
        self._configured_phases, self._anchors = two_phase, anchors
        super().__init__(DraftVocab(draft_vocab, frequent_tokens), two_phase=bool(two_phase))

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
        self._projections = projections[: tree.depth]
        self.bind(decoder, transfer, tree)

    def enter(self, step: int, source: Tensor) -> Tensor:
        """Rows [N, d] projected from rows [N, d] for a step, which counts from 1."""
        return F.linear(source, self._projections[step - 1])

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

    def trainer(self) -> ModuleTrainer:
        """See `methods.core.base.Trainable`."""
        from methods.hidden_transfer.module import HiddenTransferTrainer

        return HiddenTransferTrainer(self.name, self._settings, self._anchors)
