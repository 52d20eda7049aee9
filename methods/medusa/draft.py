"""Medusa: extra heads propose a static tree, one pass checks it; arXiv 2401.10774 (Medusa-1: frozen target).

The target's last hidden row, after the final norm, predicts the next token, the root of a round. Head k reads
the same row and proposes the token k places after the root (section 2.1.1). The best tokens of every head
fill a fixed tree, which the target verifies in one pass with a tree mask (section 2.1.2).

A worked round after a prompt of 10 tokens, with two heads and a tree of five nodes below the root:

    root       the row at position 9 chose "The"
    draft      from that row head 1 proposes "cat" and "dog", head 2 "sat" and "ran"; the paths of the tree
               are The cat sat, The cat ran, The dog sat
    verify     one pass over the 6 nodes, in slots 10 to 15; positions are 10 for the root, 11 for "cat" and
               "dog", 12 for the others; the target chooses "cat" after "The", "ran" after "The cat", "off"
               after "The cat ran"
    emitted    "cat" and "ran" are accepted, "off" is the next root: drafted 5, accepted 2, emitted 3
    cache      13 tokens: the prompt, "The", "cat", "ran"; the heads read the row of "ran" next

Differs from the authors' code in:
- heads are evaluated at the accepted node only, not at all nodes of the tree;
- sampling is exact: the target draws at every node (`methods.core.acceptance.accept_tree`); the paper's
  typical acceptance is an option, and then the output is LOSSY;
- under typical acceptance the first token is sampled like every other (there, the most likely one);
- the tree shrinks to the remaining budget and to the free cache slots instead of running past them.

Shapes: H heads, T positions, N tree nodes with the root, D tree depth, K candidates per head, d width, V
vocabulary, N of its tokens that may be drafted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UserError
from bench.records.model import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.families import DecoderConfig
from bench.runtime.linear import Linear, rms_norm
from bench.runtime.modules import load_module, load_provenance
from bench.runtime.sampling import DraftHead, DraftVocab, Sampler
from methods.core.acceptance import accept_tree, accept_tree_typical
from methods.core.base import Budget, Clock, Exactness, ModuleTrainer
from methods.core.tree_choice import TreeSpec, choose_tree
from methods.core.tree_round import Rule, TreeDraft, TreeMethod, generate_tree
from methods.core.trees import Tree


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """Which tensors the heads have; the names are those of the published checkpoints.

    A head is some residual blocks and then an LM head: its own, as in the paper, ``d^2 + d + d V`` parameters
    with one block; or the target's, frozen (version 2 of text-generation-inference), ``d^2 + d``.

    Args:
        heads: Number of heads (H).
        blocks: Residual blocks per head; published heads have one.
        own_lm_heads: Whether every head has an LM head of its own.
    """

    heads: int
    blocks: int = 1
    own_lm_heads: bool = True

    def __post_init__(self) -> None:
        if self.heads < 1 or self.blocks < 1:
            raise ValueError(f"need at least 1 head and 1 block, got {self.heads} and {self.blocks}")

    def shapes(self, config: DecoderConfig) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, by name."""
        width, shapes = config.width, dict[str, tuple[int, ...]]()
        for k in range(self.heads):
            for block in range(self.blocks):
                shapes[f"{k}.{block}.linear.weight"] = (width, width)
                shapes[f"{k}.{block}.linear.bias"] = (width,)
            if self.own_lm_heads:
                shapes[f"{k}.{self.blocks}.weight"] = (config.vocab, width)
        return shapes


class Medusa(TreeMethod):
    """Tree drafting by heads on the last hidden row.

    Args:
        weights: Folder of the trained heads, or None to train them.
        tree: What to draft, see `methods.core.tree_choice`; None takes the tree stored with the weights.
        acceptance: ``exact``, or the lossy ``typical``.
        epsilon: Typical acceptance: probability that is always enough.
        delta: Typical acceptance: scale of the entropy-dependent bound.
        heads: Heads to train (H); trained weights have their own number.
        decay: Head k = 1..H weighs ``decay ** k`` in the training loss.
        blocks: Residual blocks of each head to train.
        own_lm_heads: Train an LM head for each head; False puts the target's own after the blocks.
        soft: Train on the target's distributions; False, as published, on the tokens of its answers.
        draft_vocab: How many of the most frequent tokens may be drafted (N); None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "medusa"
    schedules: tuple[Mapping[str, Any], ...] = ({},)

    def __init__(
        self,
        *,
        weights: str | None,
        tree: TreeSpec | None,
        acceptance: str,
        epsilon: float,
        delta: float,
        heads: int,
        decay: float,
        blocks: int = 1,
        own_lm_heads: bool = True,
        soft: bool = False,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        if acceptance not in ("exact", "typical"):
            raise ValueError(f"acceptance must be exact or typical, got {acceptance}")
        if not (0 < epsilon <= 1 and delta > 0):
            raise ValueError(f"need epsilon in (0, 1] and delta above 0, got {epsilon} and {delta}")
        if not 0 < decay <= 1:
            raise ValueError(f"decay must lie in (0, 1], got {decay}")
        self._weights = None if weights is None else Path(weights)
        self._configured_tree = tree
        self._layout_to_train, self._decay, self._soft = HeadLayout(heads, blocks, own_lm_heads), decay, soft
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)
        self._is_typical = acceptance == "typical"
        self._rule: Rule = (
            partial(accept_tree_typical, epsilon=epsilon, delta=delta) if self._is_typical else accept_tree
        )

    def attach(self, decoder: Decoder) -> None:
        if self._weights is None:
            raise UserError(
                "medusa needs the weights of its heads and method.weights is not set",
                "set method.weights to the heads' folder, or train them: python -m bench.train method=medusa",
            )
        facts = load_provenance(self._weights, self.name)
        layout = HeadLayout(
            int(facts["heads"]), int(facts.get("blocks", 1)), bool(facts.get("own_lm_heads", True))
        )
        tree = choose_tree(self._configured_tree, facts.get("tree"), layout.heads, self.name, decoder.device)
        self.use(
            decoder,
            load_module(self._weights, layout.shapes(decoder.config), decoder.embedding),
            tree,
            layout,
        )

    def use(self, decoder: Decoder, tensors: Mapping[str, Tensor], tree: Tree, layout: HeadLayout) -> None:
        """Bind to a decoder, with the heads' tensors; heads deeper than the tree are dropped."""
        self._decoder, self._tree = decoder, tree
        self._head = self._vocab.head(decoder, least=tree.width)
        self._proposer = _Proposer(tensors, layout, tree.depth, self._head)

    def exactness(self, sampler: Sampler) -> Exactness:
        return Exactness.LOSSY if self._is_typical else super().exactness(sampler)

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        return generate_tree(self, self._decoder, prompt_ids, budget, sampler, clock, self._rule)

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._rows = self._normed_rows(prompt_ids)[-1:]
        self._last = 0
        return self._decoder.lm_head(self._rows)

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        tree = self._tree.fit(room, slots)
        if tree.size == 1:
            return TreeDraft(tree, root, "budget")
        logits = self._proposer(self._rows[self._last : self._last + 1])[0]
        candidates = self._head.best(logits, self._tree.width)  # [D, K]
        return TreeDraft(tree, tree.gather(root, candidates), "length" if tree is self._tree else "budget")

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        decoder = self._decoder
        place = decoder.placement.tree(base, draft.tree.offsets, draft.tree.sees)
        self._rows = self._final_norm(decoder.run_layers(decoder.embed(draft.tokens), place))
        return decoder.lm_head(self._rows)

    def commit(self, path: tuple[int, ...], base: int) -> None:
        self._last = path[-1]

    def candidates(self, ids: Tensor, width: int) -> Tensor:
        """See `methods.core.tree_round.Calibratable`."""
        return self._head.best(self._proposer(self._normed_rows(ids)), width)

    def _normed_rows(self, ids: Tensor) -> Tensor:
        """Rows of a prompt [P] after the final norm, shape [P, d]; the cache is emptied first."""
        decoder = self._decoder
        decoder.cache.truncate(0)
        decoder.placement.begin(ids.numel())
        place = decoder.placement.chain(0, ids.numel())
        return self._final_norm(decoder.run_layers(decoder.embed(ids), place))

    def _final_norm(self, rows: Tensor) -> Tensor:
        return rms_norm(rows, self._decoder.final_norm, self._decoder.config.norm_eps)

    def trainer(self) -> ModuleTrainer:
        """See `methods.core.base.Trainable`."""
        from methods.medusa.module import MedusaTrainer

        return MedusaTrainer(self.name, self._layout_to_train, self._decay, soft=self._soft)


class _Proposer:
    """The heads, frozen: the first blocks of all heads as one product, the target's LM head as one batch.

    Args:
        tensors: State dict of `methods.medusa.module.MedusaHeads`.
        layout: What they are.
        heads: How many of them to use (H).
        head: The target's head for the tokens that may be drafted; own LM heads keep the same rows.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], layout: HeadLayout, heads: int, head: DraftHead
    ) -> None:
        self._heads = heads
        weights = [tensors[f"{k}.0.linear.weight"] for k in range(heads)]
        biases = [tensors[f"{k}.0.linear.bias"] for k in range(heads)]
        self._first = Linear(torch.cat(weights), torch.cat(biases))  # [H d, d]
        self._later = [
            [
                Linear(tensors[f"{k}.{block}.linear.weight"], tensors[f"{k}.{block}.linear.bias"])
                for k in range(heads)
            ]
            for block in range(1, layout.blocks)
        ]
        self._shared = None if layout.own_lm_heads else head.lm_head
        names = [f"{k}.{layout.blocks}.weight" for k in range(heads if layout.own_lm_heads else 0)]
        self._lm_heads = [head.another(tensors[name]) for name in names]

    def __call__(self, rows: Tensor) -> Tensor:
        """Logits of all heads, shape [T, H, N], from final-norm rows [T, d]."""
        inner = F.silu(self._first(rows)).view(rows.shape[0], self._heads, -1) + rows[:, None]  # [T, H, d]
        for blocks in self._later:
            added = [F.silu(block(inner[:, k])) for k, block in enumerate(blocks)]
            inner = inner + torch.stack(added, dim=1)
        if self._shared is not None:
            return self._shared(inner.flatten(0, 1)).view(rows.shape[0], self._heads, -1)
        return torch.stack([head(inner[:, k]) for k, head in enumerate(self._lm_heads)], dim=1)
