"""The exact proof of the acceptance rules: it passes, and it fails for every mistake in them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.prove import rules
from bench.prove.certificates import Status
from bench.prove.rules import check_rules
from bench.runtime.sampling import Sampler
from methods.core import acceptance
from methods.core.acceptance import Accepted, residual
from methods.core.trees import Tree

accept, accept_tree = acceptance.accept, acceptance.accept_tree


def test_the_shared_rules_are_exact() -> None:
    check = check_rules()
    assert check.status is Status.PASSED, check.detail
    assert check.figures["outcomes"] > 900


def one_more(draft: Tensor, probs: Tensor | None, logits: Tensor, sampler: Sampler) -> Tensor:
    emitted = accept(draft, probs, logits, sampler)
    agreed = emitted.numel() - 1
    if agreed == draft.numel():
        return emitted
    return torch.cat([draft[: agreed + 1], sampler.pick(logits[agreed + 1 : agreed + 2])])


def target_instead_of_residual(
    draft: Tensor, probs: Tensor | None, logits: Tensor, sampler: Sampler
) -> Tensor:
    emitted = accept(draft, probs, logits, sampler)
    if sampler.is_greedy or emitted.numel() > draft.numel():
        return emitted
    return torch.cat([emitted[:-1], sampler.pick(logits[emitted.numel() - 1 : emitted.numel()])])


def longer_of_two(tree: Tree, tokens: Tensor, logits: Tensor, sampler: Sampler) -> Accepted:
    pair = [accept_tree(tree, tokens, logits, sampler) for _ in range(2)]
    return max(pair, key=lambda accepted: len(accepted.path))


@pytest.mark.parametrize("rule", [one_more, target_instead_of_residual])
def test_a_wrong_chain_rule_fails(rule, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    monkeypatch.setattr(acceptance, "accept", rule)
    check = check_rules()
    assert check.status is Status.FAILED
    assert "chain" in check.subject


def test_a_wrong_residual_fails_with_the_answer_and_both_probabilities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acceptance, "residual", lambda target, draft: residual(draft, target))
    check = check_rules()
    assert check.status is Status.FAILED
    assert "has probability" in check.detail


def test_a_wrong_tree_rule_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "accept_tree", longer_of_two)
    monkeypatch.setattr(rules, "TREE", Tree.of_paths([(0,), (1,)]))
    monkeypatch.setattr(rules, "NODE_TOKENS", (rules.FIRST, 1, 2))
    check = check_rules()
    assert (check.status, check.subject) == (Status.FAILED, "sampled tree")
