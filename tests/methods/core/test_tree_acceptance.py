"""Acceptance over trees: exact, greedy or sampled; typical acceptance by its formula; rounds as predicted."""

import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from bench.records.model import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler, Sampling
from methods.core.acceptance import Accepted, accept_tree, accept_tree_typical
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, Clock, Exactness
from methods.core.tree_round import TreeDraft, generate_tree
from methods.core.trees import CPU, Tree
from tests.methods.small import FAMILIES, SHAPE, prompt, random_decoder, run

V = 5
GREEDY = Sampler(Sampling(), CPU, 0)
TREE = Tree.of_paths([(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 1, 0)])
TOKENS = torch.tensor([0, 1, 2, 3, 4, 3, 0])


def choosing(*choices: int) -> Tensor:
    """Logits [7, V] whose argmax at node i is choices[i]."""
    return torch.nn.functional.one_hot(torch.tensor(choices), V).float()


@pytest.mark.parametrize(
    ("choices", "path", "emitted"),
    [
        ((0, 0, 0, 0, 0, 0, 0), (0,), (0,)),
        ((2, 3, 4, 0, 0, 0, 0), (0, 2), (2, 4)),
        ((1, 4, 0, 0, 2, 0, 0), (0, 1, 4), (1, 4, 2)),
        ((1, 4, 0, 0, 0, 0, 3), (0, 1, 4, 6), (1, 4, 0, 3)),
        ((2, 0, 3, 0, 0, 1, 0), (0, 2, 5), (2, 3, 1)),
    ],
    ids=["nothing fits", "a sibling", "two deep", "all of the longest", "under the second child"],
)
def test_greedy_follows_the_targets_choices(
    choices: tuple[int, ...], path: tuple[int, ...], emitted: tuple[int, ...]
) -> None:
    assert accept_tree(TREE, TOKENS, choosing(*choices), GREEDY) == Accepted(path, emitted)
    typical = accept_tree_typical(TREE, TOKENS, choosing(*choices), GREEDY, epsilon=0.09, delta=0.3)
    assert typical == Accepted(path, emitted), "with a greedy sampler the typical rule is the greedy one"


def test_ties_break_to_the_lowest_id() -> None:
    assert accept_tree(TREE, TOKENS, torch.zeros(7, V), GREEDY).emitted == (0,)


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="need 7 tokens and rows, got 7 and 6"):
        accept_tree(TREE, TOKENS, torch.zeros(6, V), GREEDY)


def test_sampled_rounds_are_distributed_as_the_targets_own_samples() -> None:
    """First two tokens of 6000 rounds against p(first) p(second | first), where the round gave two."""
    logits = torch.randn(7, V, generator=torch.Generator().manual_seed(2))
    probs = logits.softmax(dim=-1)
    sampler = Sampler(Sampling(1.0), CPU, 7)
    rounds = [accept_tree(TREE, TOKENS, logits, sampler) for _ in range(6000)]
    first = Counter(round_.emitted[0] for round_ in rounds)
    for token in range(V):
        assert first[token] / 6000 == pytest.approx(float(probs[0, token]), abs=0.03)
    for child in (1, 2):  # a drafted child is entered as often as the target wants it
        below = Counter(round_.emitted[1] for round_ in rounds if round_.path[1:2] == (child,))
        assert below.total() == first[int(TOKENS[child])]
        for token in range(V):
            assert below[token] / below.total() == pytest.approx(float(probs[child, token]), abs=0.05)


def typical_round(probs: list[list[float]], epsilon: float, delta: float) -> Accepted:
    """Two nodes below the root with tokens 1 and 2, and token 3 below the first."""
    tree = Tree.of_paths([(0,), (1,), (0, 0)])
    sampler = Sampler(Sampling(1.0), CPU, 0)
    logits = torch.tensor(probs).log()
    return accept_tree_typical(
        tree, torch.tensor([0, 1, 2, 3]), logits, sampler, epsilon=epsilon, delta=delta
    )


def test_typical_acceptance_takes_the_longest_typical_path() -> None:
    flat = [0.2] * 5
    got = typical_round([[0.1, 0.3, 0.4, 0.1, 0.1], flat, flat, [0.1, 0.1, 0.1, 0.1, 0.6]], 0.09, 0.3)
    assert got == Accepted((0, 1, 3), (1, 3, 4)), "deeper wins over likelier, then the target's argmax"


def test_typical_acceptance_breaks_ties_by_likelihood() -> None:
    sure = [0.96, 0.01, 0.01, 0.01, 0.01]
    got = typical_round([[0.1, 0.3, 0.4, 0.1, 0.1], sure, sure, sure], 0.09, 0.3)
    assert got == Accepted((0, 2), (2, 0))


def test_typical_bound_falls_with_entropy_and_is_capped() -> None:
    probs = [0.5, 0.08, 0.12, 0.2, 0.1]
    entropy = -sum(p * math.log(p + 1e-5) for p in probs)
    bound = 0.3 * math.exp(-entropy)
    assert 0.07 < bound < 0.08 < 0.09
    assert typical_round([probs] * 4, 1.0, 0.3).path[1:2] == (1,), "0.08 passes the bound at this entropy"
    assert typical_round([probs] * 4, 1.0, 0.36).path == (0, 2), "a wider bound stops it"
    assert typical_round([probs] * 4, 0.04, 9.0).path[1:2] == (1,), "epsilon caps the bound"


@dataclass
class Scripted:
    """A tree method whose tree holds the target's own future along `right`, and wrong tokens elsewhere."""

    decoder: Decoder
    future: tuple[int, ...]
    tree: Tree
    right: tuple[int, ...]

    def attach(self, decoder: Decoder) -> None: ...

    def exactness(self, sampler: Sampler) -> Exactness:
        return Exactness.GREEDY_EXACT

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        return generate_tree(self, self.decoder, prompt_ids, budget, sampler, clock)

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self.prompt = prompt_ids.numel()
        return self.decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        tree = self.tree.fit(room, slots)
        known = base - self.prompt + 1
        tokens = [int(root)]
        for node, path in enumerate(tree.paths, start=1):
            truth = self.future[known + len(path) - 1]
            is_right = path == self.right[: len(path)]
            tokens.append(truth if is_right else (truth + 1 + tree.ranks[node]) % SHAPE["vocab_size"])
        return TreeDraft(tree, torch.tensor(tokens), "length" if tree is self.tree else "budget")

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        place = self.decoder.placement.tree(base, draft.tree.offsets, draft.tree.sees)
        return self.decoder.head(self.decoder.run_layers(self.decoder.embed(draft.tokens), place))

    def commit(self, path: tuple[int, ...], base: int) -> None: ...


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("right", "per_round"),
    [((2, 2, 2), 1), ((1,), 2), ((0, 1), 3), ((0, 1, 0), 4)],
    ids=["nothing right", "one", "two off the first path", "the whole longest path"],
)
def test_rounds_over_trees_are_counted_as_predicted(
    right: tuple[int, ...], per_round: int, family: str
) -> None:
    decoder = random_decoder(family)
    baseline = Autoregressive()
    baseline.attach(decoder)
    future = run(baseline, prompt(), new=80).ids
    new = 1 + 6 * per_round + 4  # enough left that the last whole round is not cut by the budget
    got = run(Scripted(decoder, future, TREE, right), prompt(), new=new)
    assert got.ids == future[:new]
    whole = got.rounds[:6]
    assert [(round_.drafted, round_.depth, round_.accepted, round_.emitted) for round_ in whole] == [
        (6, 3, per_round - 1, per_round)
    ] * 6
    assert {round_.stop for round_ in whole} == {"length"}


def test_the_last_rounds_shrink_to_the_budget_and_emit_exactly_it() -> None:
    decoder = random_decoder()
    baseline = Autoregressive()
    baseline.attach(decoder)
    future = run(baseline, prompt(), new=80).ids
    got = run(Scripted(decoder, future, TREE, (0, 1, 0)), prompt(), new=1 + 4 + 3)
    assert [(round_.drafted, round_.depth, round_.emitted, round_.stop) for round_ in got.rounds] == [
        (6, 3, 4, "length"),
        (5, 2, 3, "budget"),
    ]
