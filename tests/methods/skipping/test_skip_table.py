"""The table of what to leave out: the optimum where the recursion is exact, and the rows that it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
import torch
from torch import Tensor

from bench.runtime.decoder import Decoder, Skip
from methods.skipping.chosen_skips import MOST_ROWS, Rerun
from methods.skipping.skip_table import SkipTable, fill_table
from tests.methods.small import FAMILIES, prompt, random_decoder

STEPS = (0.9, 0.2, 1.4, 0.5, 0.3, 1.1)
"""How far each item moves the rows, each in a direction of its own: then the cosine of what is left out falls
with the sum of its squares, so that the best set for a weight contains the best sets of its beginnings."""


def adding(steps: Sequence[float]) -> Callable[[int, Tensor], Tensor]:
    """Items that add a constant to a channel of their own."""

    def run(item: int, rows: Tensor) -> Tensor:
        return rows + steps[item] * torch.eye(len(steps) + 1)[item + 1]

    return run


def start(tokens: int = 1) -> Tensor:
    return torch.eye(len(STEPS) + 1)[:1].repeat(tokens, 1)


def least_lost(weights: Sequence[int], total: int) -> set[int] | None:
    """By trying all sets: the one of this weight that loses least."""
    every = [set(items) for n in range(len(STEPS) + 1) for items in combinations(range(len(STEPS)), n)]
    fitting = [items for items in every if sum(weights[item] for item in items) == total]
    return min(fitting, key=lambda items: sum(STEPS[item] ** 2 for item in items), default=None)


@pytest.mark.parametrize("weights", [(1,) * 6, (3, 1) * 3, (1, 2, 1, 5, 2, 1)], ids=str)
def test_every_total_weight_holds_the_best_of_all_sets(weights: tuple[int, ...]) -> None:
    table = fill_table(start(2), weights, adding(STEPS), budget=sum(weights))
    for total in range(sum(weights) + 1):
        best = least_lost(weights, total)
        assert (best is not None) == (total in table.weights)
        if best is not None:
            assert set(table.skipped[table.weights.index(total)]) == best


def test_no_total_exceeds_the_budget() -> None:
    table = fill_table(start(), (2,) * 6, adding(STEPS), budget=5)
    assert table.weights == (0, 2, 4)
    assert [set(items) for items in table.skipped] == [set(), {1}, {1, 4}]


def test_an_item_without_a_weight_always_runs() -> None:
    table = fill_table(start(), (None, None, 1, 1, 1, None), adding(STEPS), budget=6)
    assert table.weights == (0, 1, 2, 3)
    assert table.skipped[-1] == (2, 3, 4)


def test_versions_that_stray_too_far_are_dropped_but_never_the_full_model() -> None:
    every = fill_table(start(), (1,) * 6, adding(STEPS), budget=6)
    assert every.scores[0] == pytest.approx(1.0)
    assert list(every.scores) == sorted(every.scores, reverse=True)
    few = fill_table(start(), (1,) * 6, adding(STEPS), budget=6, least=0.9)
    assert few.weights == tuple(
        weight for weight, score in zip(every.weights, every.scores, strict=True) if score > 0.9
    )
    assert fill_table(start(), (1,) * 6, adding(STEPS), budget=6, least=1.1).weights == (0,)


def test_what_cannot_reach_a_wanted_weight_is_not_run_any_further() -> None:
    rows = list[int]()

    def counted(item: int, versions: Tensor) -> Tensor:
        rows.append(versions.shape[0])
        return adding(STEPS)(item, versions)

    table = fill_table(start(), (1,) * 6, counted, budget=4, goal_weight=4)
    assert table.weights == (0, 4)
    assert set(table.skipped[1]) == least_lost((1,) * 6, 4)
    assert rows == [1, 2, 3, 4, 4, 3]  # the full model, and 1 to 4 as far as four of six can be reached


def test_a_tie_is_for_the_set_that_runs_the_newest_item() -> None:
    table = fill_table(start(), (1, 1), adding((0.0,) * 6), budget=1)
    assert table.skipped == ((), (0,))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [1, 5])
def test_rows_are_those_of_the_model_with_these_layers_skipped(family: str, tokens: int) -> None:
    """Every version of the table, against a pass of the whole text with its layers skipped in the window."""
    decoder, ids = random_decoder(family), prompt(14)
    with torch.inference_mode():
        taps = {decoder.depth: decoder.embedding}
        decoder.prefill(ids, taps)
        rerun = Rerun(decoder, ids.tolist(), tokens)
        table = fill_table(rerun.start, [1] * decoder.depth, lambda n, rows: rerun.run(rows, n), 4)
        rerun.end()
        assert decoder.cache.length == 14
        torch.testing.assert_close(table.states[0], taps[decoder.depth][-tokens:], atol=1e-4, rtol=1e-4)
        check_versions(decoder, ids, tokens, table)


def check_versions(decoder: Decoder, ids: Tensor, tokens: int, table: SkipTable) -> None:
    assert len(table.skipped) == 5
    for layers, rows in zip(table.skipped, table.states, strict=True):
        decoder.cache.truncate(14 - tokens)
        place = decoder.placement.chain(14 - tokens, tokens)
        skip = Skip(frozenset(layers), frozenset(layers))
        expected = decoder.run_layers(decoder.embed(ids[-tokens:]), place, skip=skip)
        torch.testing.assert_close(rows, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("free", [5, 12, 200])
def test_versions_run_in_parts_where_slots_are_few(free: int) -> None:
    """With 5 free slots one version of 5 tokens runs at a time; no pass is larger than its bound."""
    versions = 40
    rows = {}
    for capacity in (20 + free, 256):
        decoder = random_decoder(capacity=capacity)
        with torch.inference_mode():
            decoder.prefill(prompt(20))
            rerun = Rerun(decoder, prompt(20).tolist(), 5)
            noise = torch.randn(versions, 5, 32, generator=torch.Generator().manual_seed(0))
            rows[capacity] = rerun.run(rerun.start + noise, 2)
            rerun.end()
        assert rerun.count == versions * 5 > MOST_ROWS
    first, second = rows.values()
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
