"""Trees: order, masks and tokens, and the sizes of the published trees."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.errors import UserError
from bench.runtime.cache import KVCache
from methods.core.tree_choice import PUBLISHED, choose_tree
from methods.core.trees import CPU, Tree, compact

SMALL = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 1, 0)]
"""Nodes 1..6 in this order; the leaves are (0, 0), (1, 0) and (0, 1, 0)."""


def test_nodes_stand_in_breadth_first_order_whatever_the_order_given() -> None:
    tree = Tree.of_paths(reversed(SMALL))
    assert tree.paths == tuple(SMALL)
    assert tree.parents == (-1, 0, 0, 1, 1, 2, 4)
    assert tree.depths == (0, 1, 1, 2, 2, 2, 3)
    assert tree.children == ((1, 2), (3, 4), (5,), (), (6,), (), ())
    assert (tree.size, tree.depth, tree.width) == (7, 3, 2)


def test_a_node_sees_itself_and_its_ancestors_only() -> None:
    tree = Tree.of_paths(SMALL)
    seen = [row.nonzero()[:, 0].tolist() for row in tree.sees]
    assert seen == [[0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 4], [0, 2, 5], [0, 1, 4, 6]]
    assert seen == [list(tree.route(node)) for node in range(tree.size)]


def test_child_counts_and_paths_say_the_same() -> None:
    counts = {"": 2, "0": 2, "1": 1, "01": 1}
    assert Tree.of_child_counts(counts).parents == Tree.of_paths(SMALL).parents
    assert Tree.of_child_counts(counts).paths == tuple(SMALL)


def test_gather_puts_the_candidate_of_its_depth_and_rank_at_every_node() -> None:
    candidates = torch.tensor([[10, 11, 12], [20, 21, 22], [30, 31, 32], [40, 41, 42]])
    tokens = Tree.of_paths(SMALL).gather(torch.tensor([7]), candidates)
    assert tokens.tolist() == [7, 10, 11, 20, 21, 20, 30]


@pytest.mark.parametrize(
    ("depth", "size", "left"),
    [(3, 7, 7), (9, 99, 7), (2, 99, 6), (1, 99, 3), (0, 99, 1), (9, 4, 4), (1, 2, 2), (9, 0, 1)],
)
def test_a_tree_shrinks_to_a_depth_and_a_size_and_keeps_its_root(depth: int, size: int, left: int) -> None:
    tree = Tree.of_paths(SMALL)
    part = tree.fit(depth, size)
    assert part.paths == tree.paths[: left - 1]
    assert torch.equal(part.sees, tree.sees[:left, :left])
    assert tree.fit(depth, size) is part, "made once"


def test_chain_is_the_best_candidate_of_every_depth() -> None:
    assert Tree.chain(4).paths == ((0,), (0, 0), (0, 0, 0), (0, 0, 0, 0))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_trees_have_63_nodes_and_a_root(name: str) -> None:
    tree = Tree.of_child_counts(PUBLISHED[name])
    assert tree.size == 64
    assert (tree.width, len(tree.children[0])) == (10, 10)
    assert tree.depth == (3 if name == "vicuna_33b_stage1" else 4)


def test_the_spec_bench_tree_has_known_counts() -> None:
    tree = Tree.of_child_counts(PUBLISHED["mc_sim_7b_63"])
    assert int(tree.sees.sum()) == 207
    assert tree.children.count(()) == 42  # leaves
    assert [tree.depths.count(depth) for depth in range(1, 5)] == [10, 28, 23, 2]
    assert {(0, 9), (3, 1), (9, 0), (0, 0, 9), (0, 7, 0), (2, 0, 0), (0, 0, 0, 1)} <= set(tree.paths)
    assert not {(3, 2), (0, 8, 0), (0, 0, 0, 2), (0, 0, 1, 0)} & set(tree.paths)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Tree.of_paths([(0,), (0,)]), "given twice"),
        (lambda: Tree.of_paths([(0, 1)]), r"no parent: add \[0\]"),
        (lambda: Tree.of_paths([(-1,)]), "negative"),
        (lambda: Tree([-1, 0, 1, 0], [0, 0, 0, 1]), "breadth-first"),
        (lambda: Tree([-1, 2, 0], [0, 0, 1]), "breadth-first"),
    ],
    ids=["doubled", "orphan", "negative rank", "deep before shallow", "child before parent"],
)
def test_invalid_trees_are_refused(make: Callable[[], Tree], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()


@pytest.mark.parametrize("path", [(0,), (0, 1, 2), (0, 2, 5), (0, 1, 4, 6), (0, 1, 3)])
def test_compaction_moves_the_accepted_path_to_the_slots_of_a_chain(path: tuple[int, ...]) -> None:
    cache = KVCache(2, 1, 20, 1, torch.float32, CPU)
    slots = torch.arange(12.0)[:, None, None]  # 5 committed, then the rows of a tree of 7
    rows = torch.cat([slots, -slots], dim=1)
    for layer in range(2):
        keys, values = cache.write(layer, 0, rows)
    compact(cache, 5, path)
    assert cache.length == 5 + len(path)
    for layer in range(2):
        keys, values = cache.write(layer, cache.length, rows[:0])
        expected = [0.0, 1.0, 2.0, 3.0, 4.0, *(5.0 + node for node in path)]
        assert keys.flatten().tolist() == expected
        assert values.flatten().tolist() == [-value for value in expected]


PATHS: list[list[int]] = [[0], [1], [0, 0]]


@pytest.mark.parametrize(
    ("configured", "stored", "nodes"),
    [
        (None, PATHS, 3),
        ("chain", PATHS, 4),
        ("mc_sim_7b_63", None, 63),
        ([[0], [0, 0]], PATHS, 2),
        ({"": 5, "0": 2}, None, 7),
        ({"": 5, 0: 2}, None, 7),
    ],
    ids=[
        "stored",
        "chain before stored",
        "published",
        "paths",
        "child counts",
        "digit keys as yaml reads them",
    ],
)
def test_a_configured_tree_goes_before_the_stored_one(configured: Any, stored: Any, nodes: int) -> None:
    assert choose_tree(configured, stored, 4, "medusa", CPU).size == nodes + 1


@pytest.mark.parametrize(
    ("configured", "complaint"),
    [
        (None, r"has no tree.*\n.*bench\.train\.calibrate method=medusa"),
        ("mc_sim", r"no tree: 'mc_sim'.*\n.*mc_sim_7b_63"),
        ([[1, 0]], "no parent"),
        ([0, 1], "no tree"),
        ([], "0 deep"),
        ({"": 1, "0": 1, "00": 1, "000": 1, "0000": 1}, r"5 deep, .* draft depths 1\.\.4"),
    ],
    ids=["none at all", "unknown name", "orphan", "no list of paths", "empty", "too deep"],
)
def test_a_tree_that_cannot_be_drafted_is_refused_with_the_way_out(configured: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        choose_tree(configured, None, 4, "medusa", CPU)
