"""The law of short answers, and the test that holds a sample against it."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from bench.prove.enumeration import Cells, chi_square_tail, enumerate_answers, fit
from bench.prove.sampling import SETTINGS, Toy, check_sampling
from bench.prove.targets import as_decoder, random_model
from bench.runtime.loading import RuntimeOptions
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive

CPU = torch.device("cpu")
OPTIONS = RuntimeOptions(CPU, torch.float32, 128)
COIN = Cells({(0,): 0.5, (1,): 0.5, (): 0.0}, frozenset({()}), length=1)


@pytest.mark.parametrize("sampling", SETTINGS)
def test_chances_add_up_and_equal_the_product_of_the_targets_own_probabilities(sampling: Sampling) -> None:
    decoder = as_decoder(random_model("llama", 2, OPTIONS, vocabulary=4, seed=0), OPTIONS)
    sampler, prompt = Sampler(sampling, CPU, 0), torch.tensor([1, 2])
    cells = enumerate_answers(decoder, prompt, sampler, length=3, draws=10**9)
    assert sum(cells.chances.values()) == pytest.approx(1)
    for answer in product(range(4), repeat=3):
        chance = 1.0
        for count, token in enumerate(answer):
            text = torch.cat([prompt, torch.tensor(answer[:count], dtype=torch.int64)])
            chance *= float(sampler.probabilities(decoder.prefill(text))[0, token])
        cell = cells.cell(answer)
        expected = cells.chances[cell] if len(cell) == 3 else 0.0
        assert expected == pytest.approx(chance, abs=1e-6)


def test_every_answer_has_a_cell_however_few_draws() -> None:
    decoder = as_decoder(random_model("llama", 2, OPTIONS, vocabulary=5, seed=0), OPTIONS)
    cells = enumerate_answers(decoder, torch.tensor([1]), Sampler(Sampling(1.0), CPU, 0), length=3, draws=60)
    assert all(cells.cell(answer) in cells.chances for answer in product(range(5), repeat=3))
    assert sum(cells.chances.values()) == pytest.approx(1)
    assert len(cells.chances) < 125


@pytest.mark.parametrize(
    ("statistic", "freedom", "tail"),
    [(3.841, 1, 0.05), (18.307, 10, 0.05), (0.0, 4, 1.0), (9.0, 0, 1.0)],
)
def test_tail_of_the_chi_square_distribution(statistic: float, freedom: int, tail: float) -> None:
    assert chi_square_tail(statistic, freedom) == pytest.approx(tail, abs=1e-4)


def test_a_fair_coin_fits_and_a_loaded_one_does_not() -> None:
    fair = fit(COIN, [(0,)] * 49 + [(1,)] * 51)
    assert fair.p_value > 0.5
    assert fair.distance == pytest.approx(0.01)
    assert fit(COIN, [(0,)] * 80 + [(1,)] * 20).p_value < 1e-8


def test_one_impossible_answer_settles_the_matter() -> None:
    found = fit(COIN, [(0,)] * 500 + [(1,)] * 500 + [(2,)])
    assert (found.p_value, found.impossible) == (0.0, 1)


def test_no_answers_are_no_evidence() -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        fit(COIN, [])


def test_plain_decoding_fits_its_own_law_and_the_figures_repeat() -> None:
    toy = Toy("llama", 2, OPTIONS, draws=400, tokens=3, seed=0)
    method = Autoregressive()
    method.attach(toy.decoder)
    once, again = (check_sampling(method, toy, SETTINGS[1], alpha=1e-4) for _ in range(2))
    assert once.status == "passed"
    assert once == again
