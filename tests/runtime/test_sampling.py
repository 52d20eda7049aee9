"""Warping against its definition token by token, and draws against the distribution they are drawn from."""

import math

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.sampling import Sampler, Sampling, draw

CPU = torch.device("cpu")
LOGITS = torch.randn(40, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def sampler(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> Sampler:
    return Sampler(Sampling(temperature, top_k, top_p), CPU, seed)


def definition(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """Temperature, then the k most likely, then the fewest of those whose mass reaches p."""
    mass = {token: math.exp(logit / temperature) for token, logit in enumerate(logits)}
    ranked = sorted(mass, key=lambda token: -mass[token])[: top_k or None]
    total = sum(mass[token] for token in ranked)
    kept, reached = [], 0.0
    for token in ranked:
        if reached >= top_p:
            break
        kept.append(token)
        reached += mass[token] / total
    total = sum(mass[token] for token in kept)
    return [mass[token] / total if token in kept else 0.0 for token in mass]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 3, 9, 50])
@pytest.mark.parametrize("top_p", [1e-6, 0.4, 0.9, 1.0])
def test_warping_equals_its_definition(temperature: float, top_k: int, top_p: float) -> None:
    got = sampler(temperature, top_k, top_p).probabilities(LOGITS)
    expected = [definition(row, temperature, top_k, top_p) for row in LOGITS.tolist()]
    assert torch.allclose(got, torch.tensor(expected, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3)],
    ids=["met", "just missed", "met by two", "three"],
)
def test_top_p_keeps_the_token_that_reaches_the_mass(top_p: float, kept: int) -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()
    assert int((sampler(top_p=top_p).probabilities(logits) > 0).sum()) == kept


def test_top_k_keeps_ties_at_the_border() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]])
    assert (sampler(top_k=2).probabilities(logits) > 0).tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_probabilities_are_at_least_fp32(dtype: torch.dtype) -> None:
    got = sampler(0.7, 5, 0.9).probabilities(LOGITS.to(dtype))
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.allclose(got.sum(dim=-1), torch.ones(len(LOGITS), dtype=got.dtype))


class TestGreedy:
    LOGITS = torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 2.0]])

    def test_ties_go_to_the_lowest_id(self) -> None:
        greedy = sampler(temperature=0)
        assert greedy.is_greedy
        assert greedy.pick(self.LOGITS).tolist() == [1, 0]
        assert greedy.probabilities(self.LOGITS).tolist() == [[0, 1, 0], [1, 0, 0]]

    def test_no_random_number_is_spent(self) -> None:
        greedy = sampler(temperature=0)
        before = greedy.generator.get_state()
        greedy.pick(self.LOGITS)
        assert torch.equal(greedy.generator.get_state(), before)


def chi_square(picked: Tensor, probs: Tensor) -> float:
    counts = torch.bincount(picked, minlength=probs.numel()).double()
    expected = probs.double() * picked.numel()
    return float(((counts - expected) ** 2 / expected).sum())


class TestDraws:
    PROBS = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
    CRITICAL = 18.5  # chi-square of 4 degrees of freedom at 0.001
    DRAWS = 50_000

    def draws(self, probs: Tensor) -> Tensor:
        return draw(probs.expand(self.DRAWS, -1), torch.Generator().manual_seed(0))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_draws_follow_the_distribution(self, dtype: torch.dtype) -> None:
        assert chi_square(self.draws(self.PROBS.to(dtype)), self.PROBS) < self.CRITICAL

    def test_the_statistic_tells_a_small_bias(self) -> None:
        biased = self.PROBS + torch.tensor([-0.02, 0.02, 0.0, 0.0, 0.0])
        assert chi_square(self.draws(biased), self.PROBS) > self.CRITICAL

    def test_impossible_tokens_are_never_drawn(self) -> None:
        probs = torch.tensor([0.0, 0.5, 0.0, 0.5])
        assert set(self.draws(probs).tolist()) == {1, 3}

    def test_the_seed_decides(self) -> None:
        picks = [sampler(seed=seed).pick(LOGITS).tolist() for seed in (3, 3, 4)]
        assert picks[0] == picks[1] != picks[2]

    def test_drawing_warped_probabilities_equals_picking(self) -> None:
        first, second = sampler(0.7, 5, 0.9), sampler(0.7, 5, 0.9)
        assert torch.equal(first.pick(LOGITS), second.draw(second.probabilities(LOGITS)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rows_of_the_target_that_are_not_finite_are_refused(bad: float, temperature: float) -> None:
    watched = sampler(temperature)
    watched.pick(LOGITS)
    watched.require_finite()
    damaged = LOGITS.clone()
    damaged[-1, 2] = bad
    watched.pick(damaged)
    with pytest.raises(UserError, match="logits are not finite"):
        watched.require_finite()


def test_a_masked_token_is_no_fault() -> None:
    watched = sampler()
    masked = LOGITS.clone()
    masked[:, 1] = -float("inf")
    watched.pick(masked)
    watched.require_finite()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, r"must be 0 \(greedy\) or at least 1e-06 and finite, got -0.1"),
        ({"temperature": 1e-40}, "got 1e-40"),
        ({"temperature": float("inf")}, "got inf"),
        ({"temperature": float("nan")}, "got nan"),
        ({"top_k": -1}, r"sampling.top_k must be at least 0 \(0 keeps all\), got -1"),
        ({"top_p": 0.0}, r"sampling.top_p must lie in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"sampling.top_p must lie in \(0, 1\], got 1.1"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)  # type: ignore[arg-type]
