"""What the matrix of successors holds, how a tree is filled from it, and how long it is kept."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from bench.errors import UserError
from bench.runtime.sampling import Sampling
from methods.core.base import Stateful
from methods.core.tree_round import TreeDraft
from methods.core.trees import Tree
from methods.lookup.token_recycling import PUBLISHED_TREE, REMEMBERED_PROMPTS, TokenRecycling
from tests.methods.small import prompt, random_decoder, run

SMALL_TREE = {"": 2, "0": 2, "1": 1, "00": 1}


def attached(tree: dict[str, int] | None = None, candidates: int = 8) -> TokenRecycling:
    method = TokenRecycling(candidates=candidates, tree=tree)
    method.attach(random_decoder())
    return method


def draft(method: TokenRecycling, root: int, room: int = 50, slots: int = 100) -> TreeDraft:
    return method.draft(torch.tensor([root]), 12, room, slots, sampler=None)  # type: ignore[arg-type]


def test_the_published_tree_has_80_nodes_below_the_root_at_six_depths() -> None:
    tree = Tree.of_child_counts(PUBLISHED_TREE)
    assert [Counter(tree.depths)[depth] for depth in range(1, 7)] == [8, 21, 25, 15, 8, 3]
    assert (tree.size, tree.depth, tree.width) == (81, 6, 8)


def test_children_are_the_successors_of_their_parents_token() -> None:
    method = attached(SMALL_TREE, candidates=2)
    method._matrix[5] = torch.tensor([7, 9])
    method._matrix[7] = torch.tensor([5, 3])
    method._matrix[9] = torch.tensor([4, 1])
    got = draft(method, 5)
    assert got.tokens.tolist() == [5, 7, 9, 5, 3, 4, 7]  # by depth: 7 9 | 5 3 below 7, 4 below 9 | 7 below 5
    assert got.stop == "length"


@pytest.mark.parametrize(("room", "slots", "size"), [(1, 100, 3), (0, 100, 1), (50, 5, 5), (2, 100, 6)])
def test_the_tree_shrinks_to_the_budget_and_the_free_slots(room: int, slots: int, size: int) -> None:
    method = attached(SMALL_TREE, candidates=2)
    whole = draft(method, 5).tokens
    got = draft(method, 5, room, slots)
    assert got.tokens.tolist() == whole[:size].tolist()
    assert (got.tree.size, got.stop) == (size, "budget")


def test_every_verified_node_leaves_the_targets_successors_accepted_or_not() -> None:
    method = attached(SMALL_TREE, candidates=2)
    ids = prompt(12)
    with torch.inference_mode():
        method.prefill(ids)
        method._matrix[5] = torch.tensor([7, 9])
        got = draft(method, 5)
        logits = method.verify(got, 12)
        method.commit((0,), 12)  # nothing was accepted
    for token in set(got.tokens.tolist()):
        last = max(node for node, held in enumerate(got.tokens.tolist()) if held == token)
        assert method._matrix[token].tolist() == logits[last].topk(2).indices.tolist()


def test_updates_as_in_the_authors_code_leave_out_the_last_round_and_take_the_prompts_last_token() -> None:
    ours, theirs = attached(), TokenRecycling(candidates=8, tree=None, authors_updates=True)
    theirs.attach(random_decoder())
    text = prompt(9)
    with torch.inference_mode():
        logits = theirs.prefill(text)
    assert theirs._matrix[text[-1]].tolist() == logits[0].topk(8).indices.tolist()
    for method in (ours, theirs):
        method.reset()
    assert run(ours, text, new=30).ids == run(theirs, text, new=30).ids
    assert theirs._verified is not None
    last = theirs._matrix.clone()
    theirs._learn(*theirs._verified)  # what the last round would have changed
    assert not torch.equal(theirs._matrix, last)
    theirs._matrix[text[-1]] = ours._matrix[text[-1]]
    assert torch.equal(theirs._matrix, ours._matrix)
    theirs.reset()
    run(theirs, text, new=30)
    with torch.inference_mode():
        theirs.prefill(prompt(5, 3))
    assert theirs._verified is None  # the next prompt does not learn from it either


def test_the_matrix_is_kept_after_a_prompt_and_cleared_by_a_reset() -> None:
    method = attached()
    cold = run(method, prompt(9, 1))
    assert isinstance(method, Stateful)
    method.reset()
    run(method, prompt(9, 2))
    learned = method._matrix.clone()
    warm = run(method, prompt(9, 1))
    assert warm.ids == cold.ids
    assert not torch.equal(learned, attached()._matrix)
    method.reset()
    assert torch.equal(method._matrix, attached()._matrix)
    assert run(method, prompt(9, 1)) == cold


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)], ids=["greedy", "sampled"])
def test_a_repeated_prompt_starts_from_the_same_matrix(sampling: Sampling) -> None:
    method = attached()
    run(method, prompt(9, 1), sampling=sampling)
    first = [run(method, prompt(9, turn), new=20, sampling=sampling) for turn in (2, 3)]
    again = [run(method, prompt(9, turn), new=20, sampling=sampling) for turn in (2, 3)]
    assert again == first


def test_only_the_last_prompts_are_remembered() -> None:
    method = attached()
    for seed in range(REMEMBERED_PROMPTS + 3):
        run(method, prompt(3, seed), new=2)
    assert len(method._before) == REMEMBERED_PROMPTS
    assert tuple(prompt(3, REMEMBERED_PROMPTS + 2).tolist()) in method._before


@pytest.mark.parametrize(("candidates", "tree"), [(7, None), (8, {}), (1, SMALL_TREE)])
def test_a_tree_that_the_matrix_cannot_fill_is_refused(candidates: int, tree: dict[str, int] | None) -> None:
    with pytest.raises(ValueError, match="as many candidates as its widest node has children"):
        TokenRecycling(candidates=candidates, tree=tree)


def test_more_candidates_than_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="keeps 97 candidates of only 96 tokens"):
        attached(candidates=97)
