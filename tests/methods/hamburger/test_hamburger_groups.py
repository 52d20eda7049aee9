"""How answers are cut into groups: the published rule, random splits, and the examples of a dialogue."""

from __future__ import annotations

from random import Random

import pytest
import torch

from methods.hamburger.groups import Answer, cut_answer, entropies, random_split, segment
from tests.methods.hamburger.hamburgers import random_model, unattached
from tests.methods.small import random_decoder


def answers(ids: list[int], is_answer: list[bool], **changes: float) -> list[Answer]:
    """The answers of a dialogue, cut by the entropies of the untuned model."""
    decoder = random_decoder()
    trainer = unattached(**changes).model_trainer()
    examples = trainer.examples(random_model(decoder), ids, is_answer, decoder, Random(0))
    return [example for example in examples if isinstance(example, Answer)]


@pytest.mark.parametrize(
    ("values", "sizes"),
    [
        ([], []),
        ([0.01] * 9, [4, 4, 1]),  # all certain: full groups
        ([2.0, 0.5, 0.7, 0.1, 0.01, 0.02], [2, 4]),
        ([1.0, 0.29, 0.31, 0.05, 0.049], [2, 3]),  # 0.31 of 1.0 is too much
        ([0.2, 0.06, 0.059, 0.061], [1, 1, 1, 1]),  # alike, and none certain
        ([3, 0.8, 0.89, 0.95, 0.1], [3, 2]),
        ([0.06, 0.04, 0.03, 1.2, 0.37, 0.35], [3, 1, 1, 1]),
    ],
)
def test_groups_begin_where_the_model_is_unsure(values: list[float], sizes: list[int]) -> None:
    assert segment(values, max_group=4, floor=0.05, ratio=0.3) == sizes


def test_entropy_is_that_of_the_prediction_in_nats() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]])
    assert entropies(logits).tolist() == pytest.approx([torch.tensor(4.0).log().item(), 0.0], abs=1e-6)


def test_random_splits_cover_the_answer() -> None:
    sizes = random_split(50, 4, Random(0))
    assert sum(sizes) == 50
    assert set(sizes) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("shares", "labelled"),
    [((0.0, 0.0, 0.0), True), ((1.0, 0.0, 0.0), False), ((0.0, 1.0, 0.0), False), ((0.0, 0.0, 1.0), False)],
    ids=str,
)
def test_only_segmented_answers_teach_the_stop_head(shares: tuple[float, ...], labelled: bool) -> None:
    names = ("singles", "random_splits", "decoded_groups")
    settings = unattached(**dict(zip(names, shares, strict=True))).training
    sizes, is_labelled = cut_answer([0.01] * 8, settings, lambda: [3, 3, 2], Random(0))
    assert is_labelled is labelled
    assert sum(sizes) == 8
    assert (sizes == [4, 4]) is labelled


def test_every_answer_of_a_dialogue_is_an_example_with_all_before_it_as_prompt() -> None:
    mask = [False] * 3 + [True] * 4 + [False] * 2 + [True] * 3
    examples = answers(list(range(12)), mask)
    assert [(example.prompt, example.tokens) for example in examples] == [(3, 4), (9, 3)]
    assert [list(example.ids) for example in examples] == [list(range(7)), list(range(12))]


def test_answers_are_segmented_by_the_model_that_predicts_them() -> None:
    decoder = random_decoder()
    ids = list(range(20))
    (example,) = answers(ids, [False] * 5 + [True] * 15, floor=1.0, ratio=0.9)
    decoder.prefill(torch.tensor(ids[:5]))
    values = [float(entropies(decoder.step(torch.tensor([4]), 4))[0])]
    values += [float(entropies(decoder.step(torch.tensor([token]), token))[0]) for token in ids[5:-1]]
    assert list(example.sizes) == segment(values, 4, 1.0, 0.9)
    assert len(set(example.sizes)) > 1
