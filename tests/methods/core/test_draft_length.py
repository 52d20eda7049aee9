"""Draft-length policies: limits and thresholds over a few rounds, checked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from methods.core.draft_length import POLICIES, DraftLength, draft_length_policy
from methods.early_exit.layerskip import LayerSkip
from tests.methods.hidden_transfer.transfers import own_ids
from tests.methods.small import prompt, random_decoder, run

ROUNDS = [(4, 5), (2, 6), (7, 7), (1, 3)]
"""Accepted and drafted tokens."""


def policy(name: str, draft_length: int = 18, threshold: float = 0.6, target: float = 0.8) -> DraftLength:
    return draft_length_policy(name, draft_length, threshold, target)


def followed(rule: Any, rounds: list[tuple[int, int]], attribute: str) -> list[float]:
    """Values of an attribute of a policy after each round."""
    values = []
    for accepted, drafted in rounds:
        rule.observe(accepted, drafted)
        values.append(round(getattr(rule, attribute), 4))
    return values


def test_dels_rule_follows_the_acceptance_of_the_prompt_so_far() -> None:
    assert followed(policy("dv"), ROUNDS, "threshold") == [0.599, 0.6, 0.601, 0.602]
    assert followed(policy("dv"), ROUNDS, "acceptance") == [0.8, 0.6727, 0.6975, 0.6821]


def test_draft_and_verifys_own_rule_follows_the_acceptance_of_the_round() -> None:
    assert followed(policy("self_sd", target=0.9), ROUNDS, "threshold") == [0.601, 0.602, 0.603, 0.604]
    assert followed(policy("self_sd", target=0.9), ROUNDS, "acceptance") == [0.4, 0.3667, 0.6833, 0.5083]


@pytest.mark.parametrize(("name", "expected"), [("self_sd", 0.6), ("dv", 0.599)])
def test_only_the_original_rule_holds_the_threshold_at_the_cap(name: str, expected: float) -> None:
    rule = policy(name, draft_length=4, target=0.4)
    assert followed(rule, [(4, 4)], "threshold") == [expected]


def test_a_threshold_outlives_the_prompt_and_the_counts_do_not() -> None:
    rule = policy("dv")
    followed(rule, [(4, 5), (2, 6)], "threshold")
    rule.start()
    assert followed(rule, [(3, 4)], "acceptance") == [round(0.5 * 0.672727 + 0.5 * 0.75, 4)]
    assert rule.threshold == pytest.approx(0.601)  # third move of a thousandth up or down


def test_fsm_steps_by_one_and_comes_back_from_zero() -> None:
    rule = policy("fsm", draft_length=4)
    assert followed(rule, [(4, 4), (5, 5), (2, 6), (0, 5)], "limit") == [5, 6, 5, 4]
    rule = policy("fsm", draft_length=1)
    assert followed(rule, [(0, 1), (0, 0)], "limit") == [0, 1]


def test_fsm_starts_anew_with_every_prompt() -> None:
    rule = policy("fsm", draft_length=3)
    rule.observe(3, 3)
    rule.start()
    assert rule.limit == 3


def test_the_heuristic_goes_up_by_two_and_never_below_one() -> None:
    assert followed(policy("heuristic", draft_length=1), [(1, 1), (2, 3), (0, 2), (0, 1)], "limit") == [
        3,
        2,
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("greedy", 4, 0.6, 0.8), "policy must be one of static, fsm"),
        (("static", 0, 0.6, 0.8), "draft_length must be at least 1, got 0"),
        (("dv", 4, 1.6, 0.8), r"threshold must lie in \[0, 1\], got 1.6"),
        (("dv", 4, 0.6, 8), r"target must lie in \[0, 1\], got 8"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draft_length_policy(*settings)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_no_policy_changes_the_output(name: str, threshold: float) -> None:
    decoder = random_decoder()
    method = LayerSkip(exit_layer=4, draft_length=5, policy=name, threshold=threshold)
    method.attach(decoder)
    for seed in (3, 4):
        assert run(method, prompt(seed=seed)).ids == own_ids(decoder, prompt(seed=seed))


def test_an_unsure_token_is_verified_and_ends_the_draft() -> None:
    decoder = random_decoder()
    method = LayerSkip(exit_layer=4, draft_length=5, policy="threshold", threshold=1.0)
    method.attach(decoder)
    rounds = run(method, prompt(), new=20).rounds[:-1]
    assert {(round_.drafted, round_.stop) for round_ in rounds} == {(1, "confidence")}
