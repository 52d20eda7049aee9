"""With random numbers that belong to places in the answer, tree methods sample the ids of plain decoding.

The tree rule lets the target draw at every node and keeps only draws of accepted contexts. If the draw for
the i-th token uses the i-th random vector, whichever pass it is made in, plain decoding makes the same draw.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.prove.controls import Branches
from bench.runtime.sampling import Sampler, Sampling
from methods.core.acceptance import Accepted, accept_tree
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, NoClock
from methods.core.tree_round import generate_tree
from methods.core.trees import Tree
from tests.methods.hidden_transfer.transfers import saved as random_hidden_transfer
from tests.methods.medusa.test_medusa import saved as random_medusa
from tests.methods.small import CPU, SHAPE, prompt, random_decoder

NEW = 40


class SharedNumbers(Sampler):
    """Draws token i of an answer with the i-th row of one table of noise."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        super().__init__(sampling, CPU, seed)
        self._noise = torch.empty(2 * NEW, SHAPE["vocab_size"]).exponential_(generator=self.generator)
        self._emitted = 0
        self._offsets: Tensor | None = None

    def draw(self, probs: Tensor) -> Tensor:
        if self._offsets is None:
            self._emitted += 1
            return (probs / self._noise[self._emitted - 1]).argmax(dim=-1)
        return (probs / self._noise[self._emitted + self._offsets]).argmax(dim=-1)

    def rule(self, tree: Tree, tokens: Tensor, logits: Tensor, sampler: Sampler) -> Accepted:
        """The tree rule; every node draws for its own depth."""
        self._offsets = tree.offsets
        accepted = accept_tree(tree, tokens, logits, self)
        self._offsets = None
        self._emitted += len(accepted.emitted)
        return accepted


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.6, top_k=5), Sampling(1.4, top_p=0.8)])
@pytest.mark.parametrize("name", ["static tree", "medusa", "hidden_transfer"])
def test_sampled_ids_are_those_of_plain_decoding(name: str, sampling: Sampling, tmp_path: Path) -> None:
    decoder, budget = random_decoder(), Budget(NEW, frozenset())
    drafter = {
        "static tree": Branches,
        "medusa": lambda: random_medusa(decoder, tmp_path, tree="mc_sim_7b_63"),
        "hidden_transfer": lambda: random_hidden_transfer(decoder, tmp_path),
    }[name]()
    baseline = Autoregressive()
    for method in (drafter, baseline):
        method.attach(decoder)
    with torch.inference_mode():
        for seed in range(3):
            ids = prompt(seed=seed)
            expected = baseline.generate(ids, budget, SharedNumbers(sampling, seed), NoClock())
            numbers = SharedNumbers(sampling, seed)
            got = generate_tree(drafter, decoder, ids, budget, numbers, NoClock(), numbers.rule)
            assert got.cut(NEW, frozenset()).ids == expected.ids
