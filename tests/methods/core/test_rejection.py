"""One round of each exact sampling rule, eight thousand times in float64, against the target's own law.

Shapes: K drafted tokens, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from bench.prove.enumeration import Cells, Fit, fit
from bench.runtime.sampling import Sampler, Sampling, draw
from methods.core.acceptance import accept_sampling, accept_tree
from methods.core.trees import Tree

DRAWS = 8_000
ALPHA = 1e-4
CPU = torch.device("cpu")
VOCABULARY = 5


def distributions(rows: int, seed: int) -> Tensor:
    """Uneven distributions, shape [rows, V], float64; one token of each is impossible."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(rows, VOCABULARY, generator=generator, dtype=torch.float64)
    logits[torch.arange(rows), torch.arange(rows) % VOCABULARY] = -torch.inf
    return logits.softmax(dim=-1)


def fit_to(probs: Tensor, tokens: Iterable[int]) -> Fit:
    """Tokens against one distribution [V]."""
    chances = {(token,): float(chance) for token, chance in enumerate(probs)}
    return fit(Cells({**chances, (): 0.0}, frozenset({()}), 1), [(token,) for token in tokens])


def chain_rounds(draft_probs: Tensor, target_probs: Tensor) -> list[list[int]]:
    """Emitted tokens of `DRAWS` rounds, each with a draft of its own."""
    generator = torch.Generator().manual_seed(1)
    return [
        accept_sampling(draw(draft_probs, generator), draft_probs, target_probs, generator).tolist()
        for _ in range(DRAWS)
    ]


@pytest.mark.parametrize("seed", [3, 4])
def test_a_chain_emits_the_targets_own_distribution_at_every_depth(seed: int) -> None:
    target_probs, draft_probs = distributions(3, seed), distributions(2, seed + 10)
    rounds = chain_rounds(draft_probs, target_probs)
    for depth in range(3):
        reached = [round_[depth] for round_ in rounds if len(round_) > depth]
        assert len(reached) > 1000
        assert fit_to(target_probs[depth], reached).p_value > ALPHA


def test_a_chain_accepts_as_often_as_the_distributions_overlap() -> None:
    """Acceptance has probability sum of min(p, q): no exact rule can do better (Leviathan et al., 3.2)."""
    target_probs, draft_probs = distributions(2, seed=3), distributions(1, seed=13)
    rounds = chain_rounds(draft_probs, target_probs)
    accepted = sum(len(round_) == 2 for round_ in rounds) / DRAWS
    overlap = float(torch.minimum(target_probs[0], draft_probs[0]).sum())
    assert accepted == pytest.approx(overlap, abs=4 * (overlap * (1 - overlap) / DRAWS) ** 0.5)


def test_a_tree_emits_the_targets_own_distribution_below_every_node() -> None:
    tree = Tree.of_child_counts({"": 2, "0": 2, "1": 1})
    tokens = torch.tensor([0, 1, 2, 3, 4, 1])
    logits = distributions(tree.size, seed=5).log()
    sampler = Sampler(Sampling(1.0), CPU, 2)
    below: dict[int, list[int]] = {}
    for _ in range(DRAWS):
        accepted = accept_tree(tree, tokens, logits, sampler)
        for node, token in zip(accepted.path, accepted.emitted, strict=True):
            below.setdefault(node, []).append(token)
    assert set(below) == set(range(tree.size))
    for node, tokens in below.items():
        assert fit_to(logits[node].exp(), tokens).p_value > ALPHA


def test_a_tree_enters_a_child_as_often_as_the_target_says_its_token() -> None:
    tree, tokens = Tree.of_child_counts({"": 2}), torch.tensor([0, 1, 2])
    logits = distributions(3, seed=6).log()
    sampler = Sampler(Sampling(1.0), CPU, 3)
    entered = Counter(accept_tree(tree, tokens, logits, sampler).path[-1] for _ in range(DRAWS))
    for node in (1, 2):
        chance = float(logits[0, tokens[node]].exp())
        assert entered[node] / DRAWS == pytest.approx(chance, abs=4 * (chance * (1 - chance) / DRAWS) ** 0.5)


def always(draft: Tensor, draft_probs: Tensor, target_probs: Tensor, generator: torch.Generator) -> Tensor:
    """Accepts every token that the target gives any probability."""
    return draft


def from_target(
    draft: Tensor, draft_probs: Tensor, target_probs: Tensor, generator: torch.Generator
) -> Tensor:
    """Accepts rightly, but replaces a rejected token by a draw from the target itself."""
    right = accept_sampling(draft, draft_probs, target_probs, generator)
    return right if right.numel() > draft.numel() else draw(target_probs[:1], generator)


@pytest.mark.parametrize("rule", [always, from_target])
def test_the_test_itself_tells_wrong_rules(rule: Callable[..., Tensor]) -> None:
    target_probs, draft_probs = distributions(2, seed=3), distributions(1, seed=13)
    generator = torch.Generator().manual_seed(1)
    emitted = [
        int(rule(draw(draft_probs, generator), draft_probs, target_probs, generator)[0]) for _ in range(DRAWS)
    ]
    assert fit_to(target_probs[0], emitted).p_value < 1e-10
