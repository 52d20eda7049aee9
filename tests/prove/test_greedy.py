"""The greedy checks: which token is the first wrong one, what is strict, what a verdict forgives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.prove.certificates import Status
from bench.prove.controls import Branches, Chain, one_too_many
from bench.prove.greedy import Wrong, check_exact, check_verdicts, first_wrong
from bench.prove.targets import Target, random_target
from bench.records.model import Generation, Round
from bench.runtime.loading import RuntimeOptions
from bench.runtime.sampling import Sampler
from methods.core.base import Budget, Clock

CPU = torch.device("cpu")
ROUNDS = (Round(2, 2, 3, 2, "length"), Round(2, 0, 1, 2, "length"))  # tokens 1 to 3, then token 4


def target(dtype: torch.dtype = torch.float32) -> Target:
    return random_target("llama", 3, RuntimeOptions(CPU, dtype, 128), new=24, seed=0)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((5, 6, 7, 8, 9), None),
        ((4, 6, 7, 8, 9), Wrong(2, token=0, round=0, got=5, expected=4)),
        ((5, 6, 7, 4, 9), Wrong(2, token=3, round=1, got=8, expected=4)),
        ((5, 6, 7, 8, 4), Wrong(2, token=4, round=2, got=9, expected=4)),
        ((5, 6, 7, 8, 9, 1), Wrong(2, token=5, round=2, got=None, expected=1)),
        ((5, 6, 7, 8), Wrong(2, token=4, round=2, got=9, expected=None)),
    ],
    ids=["equal", "the prefill's", "last of a round", "in the second round", "ends early", "goes on"],
)
def test_first_wrong_token_and_its_round(answer: tuple[int, ...], expected: Wrong | None) -> None:
    assert first_wrong(Generation((5, 6, 7, 8, 9), ROUNDS), answer, prompt=2) == expected


def test_an_exact_method_passes_and_its_acceptance_is_told() -> None:
    method = Branches()
    method.attach((model := target()).decoder)
    found = check_exact(method, model)
    assert found.status is Status.PASSED
    assert found.figures["exact"] == found.figures["answers"] == 3
    assert 0 < found.figures["accepted"] < found.figures["drafted"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_token_fails_in_any_precision(dtype: torch.dtype) -> None:
    method = Chain(one_too_many)
    method.attach((model := target(dtype)).decoder)
    check = check_exact if dtype is torch.float32 else check_verdicts
    found = check(method, model)
    assert found.status is Status.FAILED
    assert "first wrong round 1" in found.detail


def test_half_precision_counts_every_answer_by_its_verdict() -> None:
    method = Chain()
    method.attach((model := target(torch.bfloat16)).decoder)
    figures = check_verdicts(method, model).figures
    assert figures["exact"] + figures["ties"] + figures["violations"] == figures["answers"] == 3
    assert len(figures["tie_margins"]) == len(figures["ranks"]) == figures["ties"] + figures["violations"]


class EndsEarly(Chain):
    """Stops a token before the budget; every token it says is right."""

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        shorter = Budget(budget.max_new_tokens - 1, budget.eos_ids)
        return super().generate(prompt_ids, shorter, sampler, clock)


@pytest.mark.parametrize("check", [check_exact, check_verdicts])
def test_an_answer_that_ends_too_early_fails_though_every_token_is_right(check) -> None:  # noqa: ANN001
    method = EndsEarly()
    method.attach((model := target()).decoder)
    found = check(method, model)
    assert found.status is Status.FAILED
    assert "the end instead of id" in found.detail
