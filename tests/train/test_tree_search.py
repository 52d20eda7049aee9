"""The search for a tree: greedy by expected gain, sized by tokens per second."""

from itertools import combinations, product

import pytest

from bench.train.tree_search import best_size, grow, seconds_at
from methods.trees import Tree

ACCURACIES = [[0.6, 0.2, 0.11], [0.5, 0.3, 0.05]]


def test_nodes_come_in_order_of_their_probability_of_being_accepted() -> None:
    nodes = grow(ACCURACIES, 12)
    assert [node.path for node in nodes[:5]] == [(0,), (0, 0), (1,), (0, 1), (2,)]
    assert [node.gain for node in nodes[:5]] == pytest.approx([0.6, 0.3, 0.2, 0.18, 0.11])
    assert len(nodes) == 3 + 3 * 3, "and there are no more"


def test_every_prefix_is_a_tree() -> None:
    nodes = grow([[0.3, 0.3, 0.2], [0.9, 0.05, 0.04], [0.8, 0.1, 0.0]], 30)
    for size in range(1, 31):
        assert Tree.of_paths(node.path for node in nodes[:size]).size == size + 1


def test_greedy_growth_is_optimal_where_accuracy_falls_with_rank() -> None:
    everything = [path for depth in (1, 2) for path in product(range(3), repeat=depth)]

    def value(paths: tuple[tuple[int, ...], ...]) -> float:
        gains = {path: ACCURACIES[0][path[0]] for path in everything}
        gains |= {path: gains[path] * ACCURACIES[1][path[1]] for path in everything if len(path) == 2}
        return sum(gains[path] for path in paths)

    for size in (1, 2, 3, 4, 5):
        closed = [
            paths
            for paths in combinations(everything, size)
            if all(len(path) == 1 or path[:1] in paths for path in paths)
        ]
        assert sum(node.gain for node in grow(ACCURACIES, size)) == pytest.approx(max(map(value, closed)))


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
    found = best_size(grow(ACCURACIES, 12), round_s)
    assert len(found.paths) == nodes
    assert found.tokens == pytest.approx(1 + sum(node.gain for node in grow(ACCURACIES, nodes)))


def test_a_tree_may_have_to_promise_some_tokens() -> None:
    nodes, round_s = grow(ACCURACIES, 12), {1: 1.0, 2: 2.0, 12: 9.0}
    found = best_size(nodes, round_s, least_tokens=1.9)
    assert found.tokens >= 1.9
    assert found.tokens - nodes[len(found.paths) - 1].gain < 1.9  # not one more than needed
    with pytest.raises(ValueError, match="no measured tree promises 9 tokens a round"):
        best_size(nodes, round_s, least_tokens=9)


def test_only_measured_sizes_are_considered() -> None:
    assert len(best_size(grow(ACCURACIES, 12), {2: 1.0, 3: 1.0}).paths) == 3
    with pytest.raises(ValueError, match="measured sizes"):
        best_size(grow(ACCURACIES, 2), {4: 1.0, 8: 1.0})


def test_cost_between_measured_sizes_is_interpolated() -> None:
    assert seconds_at({4: 1.0, 8: 3.0}, 5) == pytest.approx(1.5)
