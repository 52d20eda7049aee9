"""DEL's arithmetic: averages, objective and ties, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bench.runtime.costs import PassCosts
from methods.early_exit.dynamic_exit import time_cost
from methods.early_exit.exit_choice import Choice, ExitStatistics, choose, expected_tokens, layer_cost


def statistics(*updates: list[list[float]], decay: float = 0.95) -> ExitStatistics:
    figures = ExitStatistics(len(updates[0][0]), decay)
    for sums in updates:
        figures.add_pending(0)
        for index, column in enumerate(np.array(sums).T):
            figures.settle(index, column)
    return figures


def thresholds(figures: ExitStatistics) -> list[float]:
    return [figures.threshold(index) for index in range(figures.pending.size)]


def test_averages_decay_once_per_round() -> None:
    figures = statistics([[20.0], [12.0], [15.0], [4.0]], [[3.0], [1.0], [2.4], [0.35]])
    assert figures.acceptance == pytest.approx([0.63953], abs=1e-5)
    assert thresholds(figures) == pytest.approx([0.54575], abs=1e-5)


def test_an_exit_without_counts_accepts_nothing_and_never_stops() -> None:
    figures = statistics([[0.0, 4, 0, 2], [0.0, 0, 3, 2], [0.0, 3.6, 0, 1.8], [0.0, 0, 1.2, 0.8]])
    assert figures.acceptance.tolist() == [0, 1, 0, 0.5]
    assert thresholds(figures) == pytest.approx([0, 0, 0, 0.65])


def test_the_objective_by_hand() -> None:
    acceptance, exits = np.array([0.62, 0.74, 0.82, 0.88]), np.array([4.0, 8, 12, 16])
    cost = layer_cost(exits, 32, 18)
    value = expected_tokens(acceptance, 18) / cost
    assert value.argmax(axis=1).tolist() == [3, 3, 3, 3]
    assert value.max(axis=1) == pytest.approx([0.05097, 0.04809, 0.04476, 0.04170], abs=1e-5)
    best = choose(acceptance, cost)
    assert (best.index, best.length) == (0, 3)
    assert best.value * 32 == pytest.approx(1.631, abs=1e-3)


def test_certain_acceptance_takes_the_longest_draft() -> None:
    assert choose(np.array([1.0]), layer_cost(np.array([1.0]), 8, 5)) == Choice(0, 4, 5 / 12)


def test_ties_go_to_the_shallowest_exit_then_to_the_shortest_draft() -> None:
    nothing_known = np.zeros(3)
    best = choose(nothing_known, layer_cost(np.array([1.0, 2, 3]), 8, 4))
    assert (best.index, best.length, best.value) == (0, 0, 1 / 8)
    assert choose(np.array([0.5, 0.5]), np.ones((2, 1))).index == 0


def test_time_counts_the_head_that_drafts_the_whole_head_and_the_rows_that_are_verified() -> None:
    costs = PassCosts(rows=(1, 3), layer_s=(2.0, 4.0), head_s=(10.0, 20.0), draft_head_s=5.0)
    got = time_cost(np.array([1.0, 2.0]), 4, 3, costs)
    by_hand = [
        [2 + 0 + 3 * 2 + 10, 2 * 2 + 5 + 3 * 3 + 15, 3 * 2 + 2 * 5 + 3 * 4 + 20],
        [4 + 0 + 2 * 2 + 10, 2 * 4 + 5 + 2 * 3 + 15, 3 * 4 + 2 * 5 + 2 * 4 + 20],
    ]
    assert got == pytest.approx(np.array(by_hand, dtype=float))


def test_a_pending_round_counts_as_matches_until_its_figures_come() -> None:
    figures = statistics([[6.0, 4], [2, 4], [4, 3], [1, 1]], decay=0.5)
    for tokens in (4, 2):
        figures.add_pending(tokens)
    assert figures.acceptance == pytest.approx([5.5 / 6, 5 / 6])  # a quarter of what was, 4 / 2 + 2 matches
    late = [1 / 2 + 2, 3 / 2, 0, 0]  # 1 of 4 and 2 of 2
    figures.settle(1, np.array(late))
    assert figures.pending.tolist() == [2, 0]
    assert figures.acceptance == pytest.approx([5.5 / 6, (1 + 2.5) / 6])
