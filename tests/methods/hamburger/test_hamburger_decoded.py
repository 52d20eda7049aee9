"""Training cuts known answers into the groups that decoding would make."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import Tensor

from bench.records.model import Generation
from methods.hamburger.draft import Hamburger
from methods.hamburger.groups import Answer
from methods.hamburger.module import HamburgerModel
from tests.methods.hamburger.hamburgers import TUNED_SEED, bound, random_model, unattached
from tests.methods.hamburger.test_hamburger import sizes_of
from tests.methods.small import prompt, random_decoder, run

GATES = [{}, {"token_confidence": 0.02}, {"confidence": 0.0}, {"confidence": 1.5}, {"merge_delay": 2}]


@pytest.fixture(scope="module")
def model() -> HamburgerModel:
    return random_model(random_decoder(seed=TUNED_SEED))


def cut(method: Hamburger, model: HamburgerModel, ids: Tensor, answer: list[int]) -> list[int]:
    whole, mask = [*ids.tolist(), *answer], [False] * ids.numel() + [True] * len(answer)
    (example,) = method.model_trainer().examples(model, whole, mask, random_decoder(), Random(0))
    assert isinstance(example, Answer)
    assert not example.is_labelled
    return list(example.sizes)


def decoded(ids: Tensor, gates: dict[str, float]) -> Generation:
    return run(bound(**gates), ids, new=30)


@pytest.mark.parametrize("gates", GATES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_an_answer_of_its_own_is_cut_as_it_was_decoded(
    model: HamburgerModel, gates: dict[str, float], seed: int
) -> None:
    got = decoded(prompt(10, seed), gates)
    method = unattached(decoded_groups=1.0, **gates)
    assert cut(method, model, prompt(10, seed), list(got.ids)) == sizes_of(got)


@pytest.mark.parametrize("tokens", [1, 2, 3, 9])
def test_groups_cover_any_answer_to_its_end(model: HamburgerModel, tokens: int) -> None:
    sizes = cut(unattached(decoded_groups=1.0), model, prompt(10), prompt(tokens, 1).tolist())
    assert sum(sizes) == tokens
    assert max(sizes) <= model.shape.max_group


def test_groups_are_those_of_the_model_as_it_is_now(model: HamburgerModel) -> None:
    method = unattached(decoded_groups=1.0)
    ids, answer = prompt(10), prompt(12, 1).tolist()
    cut(method, model, ids, answer)
    eager = random_model(random_decoder(seed=TUNED_SEED))
    with torch.no_grad():
        eager.micro_step_decoder.stop_head[-1].bias.fill_(-100.0)
    assert cut(method, eager, ids, answer) == [4, 4, 4]
