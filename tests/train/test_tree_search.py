"""The search for a tree: greedy by expected gain, sized by tokens per second."""

from itertools import combinations, product
from random import Random

import pytest

from bench.train.calibrate.tree_search import Node, Path, best_size, grow, seconds_at
from methods.core.trees import Tree

NODES = [Node((0,), 1.6), Node((0, 0), 1.9), Node((1,), 2.1), Node((0, 1), 2.28), Node((2,), 2.39)]
MORE = [*NODES, *(Node((rank,), 2.39 + rank / 100) for rank in range(3, 10))]


def test_a_round_begins_after_the_tokens_that_the_last_round_accepted() -> None:
    text: list[Path] = [(0, 0), (1,), (), (0, 0), (1, 2), (2,)]
    nodes = grow([text], 9)
    # six rounds without a tree; with (0,) four, at places 0, 2, 3 and 5; with (0, 0) two, at 0 and 3: none
    # of them begins where (1,) or (2,) is right
    assert [node.path for node in nodes] == [(0,), (0, 0)]
    assert [node.tokens for node in nodes] == [1 + 2 / 4, 1 + 4 / 2]


def test_depths_that_are_right_together_are_not_taken_for_independent() -> None:
    texts: list[list[Path]] = [*[[(0, 0)]] * 8, *[[(1, 1)]] * 2]  # depth 2 errs only where depth 1 does
    assert [node.path for node in grow(texts, 9)] == [(0,), (0, 0), (1,), (1, 1)]  # (0, 1) is never right


def some_paths(seed: int, depth: int) -> list[Path]:
    rng = Random(seed)
    return [tuple(rng.randrange(3) for _ in range(rng.randint(0, depth))) for _ in range(200)]


@pytest.mark.parametrize("seed", range(4))
def test_every_prefix_is_a_tree_and_promises_more(seed: int) -> None:
    nodes = grow([some_paths(seed, 3), some_paths(seed + 9, 3)], 30)
    for size in range(1, 31):
        assert Tree.of_paths(node.path for node in nodes[:size]).size == size + 1
    assert nodes[-1].tokens > nodes[9].tokens > nodes[0].tokens > 1


def test_growth_is_optimal_where_every_text_is_one_round() -> None:
    texts = [[path] for path in some_paths(5, 2)]
    everything = [path for depth in (1, 2) for path in product(range(3), repeat=depth)]

    def tokens(paths: tuple[Path, ...]) -> float:
        return 1 + sum(walk[:depth] in paths for [walk] in texts for depth in range(1, len(walk) + 1)) / 200

    for size in (1, 2, 3, 4, 5):
        closed = [
            paths
            for paths in combinations(everything, size)
            if all(len(path) == 1 or path[:1] in paths for path in paths)
        ]
        assert grow(texts, size)[-1].tokens == pytest.approx(max(map(tokens, closed)))


@pytest.mark.parametrize(
    ("round_s", "nodes"),
    [
        ({1: 1.0, 12: 1.0}, 12),
        ({1: 1.0, 2: 2.0, 12: 9.0}, 1),
        ({1: 1.0, 4: 1.1, 5: 1.2, 12: 3.0}, 4),
    ],
    ids=["rows are free: all of them", "rows cost in full: the best one", "cheap up to four"],
)
def test_size_is_where_a_second_yields_most_tokens(round_s: dict[int, float], nodes: int) -> None:
    tree = best_size(MORE, round_s)
    assert len(tree.paths) == nodes
    assert tree.tokens == MORE[nodes - 1].tokens


def test_a_tree_may_have_to_promise_some_tokens() -> None:
    round_s = {1: 1.0, 2: 2.0, 12: 9.0}
    tree = best_size(MORE, round_s, least_tokens=1.9)
    assert tree.tokens >= 1.9
    assert len(tree.paths) == 2  # not one more than needed
    with pytest.raises(ValueError, match="no measured tree promises 9 tokens a round"):
        best_size(MORE, round_s, least_tokens=9)


def test_only_measured_sizes_are_considered() -> None:
    assert len(best_size(MORE, {2: 1.0, 3: 1.0}).paths) == 3
    with pytest.raises(ValueError, match="measured sizes"):
        best_size(NODES[:2], {4: 1.0, 8: 1.0})


def test_cost_between_measured_sizes_is_interpolated() -> None:
    assert seconds_at({4: 1.0, 8: 3.0}, 5) == pytest.approx(1.5)
