"""The search for skipped sub-layers: what is tried, what is kept, when it ends (SWIFT, section 4.1)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.errors import UserError
from bench.runtime.decoder import Skip
from methods.skipping.search import Candidates, SearchRules, SkipSearch
from methods.skipping.sublayer_skip import skip_of, sublayers

SIX = Candidates.of(6, keep_first_last=True)


def search(rules: SearchRules, number: int = 3) -> SkipSearch:
    return SkipSearch(SIX, SIX.odd_layers(), number, rules)


def rules(**changes: Any) -> SearchRules:
    return SearchRules(**{"bayes_interval": 0, "max_score": 2.0, **changes})


def run_to_end(skip_search: SkipSearch, rate: Callable[[Skip], float]) -> int:
    steps = 0
    while skip_search.is_on:
        skip_search.step(rate)
        steps += 1
    return steps


@pytest.mark.parametrize(("depth", "skipped"), [(12, 9), (16, 12), (32, 27), (40, 34)])
def test_a_ratio_of_45_percent_skips_the_published_number(depth: int, skipped: int) -> None:
    candidates = Candidates.of(depth, keep_first_last=True)
    assert candidates.count == 2 * (depth - 2)
    assert candidates.number(0.45) == skipped


def test_candidates_are_the_attentions_then_the_mlps_of_the_inner_layers() -> None:
    assert SIX.skip(range(4)) == skip_of([1, 2, 3, 4], [])
    assert SIX.skip([3, 4]) == skip_of([4], [1])
    assert SIX.indicator(skip_of([4], [1])).tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert Candidates.of(6, keep_first_last=False).skip([0, 11]) == skip_of([0], [5])


def test_the_start_is_both_sublayers_of_every_odd_layer() -> None:
    assert SIX.odd_layers() == skip_of([1, 3], [1, 3])
    assert Candidates.of(32, keep_first_last=True).odd_layers().mlp == frozenset(range(1, 31, 2))


def test_every_try_skips_the_same_number_and_no_outer_layer() -> None:
    scored: list[Skip] = []

    def rate(skip: Skip) -> float:
        scored.append(skip)
        return 0.0

    run_to_end(search(rules(max_iter=40)), rate)
    assert scored[0] == SIX.odd_layers()
    assert {sublayers(skip) for skip in scored[1:]} == {3}
    assert not {0, 5} & {layer for skip in scored for layer in skip.attention | skip.mlp}
    assert len(set(scored)) > 10


def test_only_a_better_set_is_kept() -> None:
    scores = iter([0.5, 0.4, 0.7, 0.7, 0.6])
    skip_search, kept = search(rules()), []
    for _ in range(5):
        skip_search.step(lambda skip: next(scores))
        kept.append((skip_search.best, skip_search.score))
    assert [score for _, score in kept] == [0.5, 0.5, 0.7, 0.7, 0.7]
    assert kept[0][0] == kept[1][0] == SIX.odd_layers() != kept[2][0]
    assert kept[2][0] == kept[4][0]


@pytest.mark.parametrize(
    ("changes", "scores", "tries"),
    [
        ({"max_tol": 2}, [0.5, 0.6, 0.1, 0.1, 0.1], 4),  # a gain, then three tries in vain
        ({"max_iter": 3}, [0.1, 0.2, 0.3, 0.4, 0.5], 4),
        ({"max_score": 0.9}, [0.5, 0.9, 0.91], 2),  # 0.9 is not above 0.9
        ({"max_score": 0.9}, [0.95], 0),  # the start set will do
        ({"max_score": 0.9, "score_start": False}, [0.95], 1),
    ],
    ids=["tolerance", "tries", "score", "start set", "start set not scored"],
)
def test_the_search_ends_by_each_of_its_rules(
    changes: dict[str, Any], scores: list[float], tries: int
) -> None:
    given = iter(scores)
    skip_search = search(rules(**changes))
    assert run_to_end(skip_search, lambda skip: next(given)) == len(scores)
    assert skip_search.tries == tries
    with pytest.raises(RuntimeError, match="ended"):
        skip_search.step(lambda skip: 1.0)


def test_an_unscored_start_loses_to_the_first_try() -> None:
    skip_search = search(rules(score_start=False))
    skip_search.step(lambda skip: 0.01)
    assert (skip_search.best != SIX.odd_layers(), skip_search.score) == (True, 0.01)


@pytest.mark.parametrize(("carry_best", "kept"), [(False, 0.5), (True, 0.9)])
def test_at_a_new_prompt_the_kept_set_is_scored_anew_unless_its_score_is_carried(
    carry_best: bool, kept: float
) -> None:
    skip_search = search(rules(carry_best=carry_best))
    for score in (0.9, 0.2):
        skip_search.step(lambda skip, score=score: score)
    best = skip_search.best
    skip_search.next_prompt()
    rated: list[Skip] = []

    def rate(skip: Skip) -> float:
        rated.append(skip)
        return 0.5 if skip == best else 0.1

    skip_search.step(rate)
    assert (skip_search.best, skip_search.score) == (best, kept)
    assert (rated == [best]) is not carry_best


def test_a_search_is_repeatable_and_its_seed_counts() -> None:
    def tried(seed: int) -> list[Skip]:
        scored: list[Skip] = []
        run_to_end(search(rules(max_iter=10, seed=seed)), lambda skip: scored.append(skip) or 0.0)  # type: ignore[func-returns-value]
        return scored

    assert tried(1) == tried(1) != tried(2)


def test_one_suggestion_beats_the_forty_draws_it_learnt_from_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("sklearn")
    candidates = Candidates.of(12, keep_first_last=True)
    worth, scores = np.random.default_rng(0).random(candidates.count), list[float]()

    def rate(skip: Skip) -> float:
        scores.append(float(worth @ candidates.indicator(skip)))
        return scores[-1]

    start, once = candidates.odd_layers(), rules(bayes_interval=40, max_iter=39, max_score=99.0)
    skip_search = SkipSearch(candidates, start, 9, once)
    run_to_end(skip_search, rate)
    assert len(scores) == 1 + 40
    assert scores[-1] == max(scores) > 1.05 * max(scores[:-1])
    assert capsys.readouterr().out == ""


def test_a_point_that_was_scored_before_counts_again_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("sklearn")
    skip_search = search(rules(bayes_interval=10**6))
    for _ in range(3):
        skip_search.tries, skip_search.score = 1, None
        skip_search.step(lambda skip: 0.5)
    assert skip_search._bayes is not None
    assert len(skip_search._bayes._scores) == 3
    assert capsys.readouterr().out == ""


def test_without_the_package_the_extra_is_named_and_chance_alone_still_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.gaussian_process", None)
    with pytest.raises(UserError, match=r"self-speculative-bench\[search\]"):
        search(SearchRules())
    assert search(rules()).is_on


def test_a_search_with_nothing_to_choose_is_refused() -> None:
    for number in (0, SIX.count):
        with pytest.raises(ValueError, match=r"skips 1\.\.7 sub-layers"):
            search(rules(), number)
