"""The acceptance rules: greedy emits the target's own ids, sampling the target's own distribution.

The law of speculative sampling is tested on joint outcomes of two tokens: fixed seeds, float64, and the same
test must fail for two mistakes that are easily made (no residual, an unwarped bonus token).

Shapes: K drafted tokens, V vocabulary, N trials.
"""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import methods.core.acceptance
from bench.runtime.sampling import Sampler, Sampling, draw
from methods.core.acceptance import accept, accept_greedy, accept_sampling, residual

V = 4
TRIALS = 8_000
FEW = 4_000  # enough to see the mistakes
CRITICAL = 37.7  # chi-square of V * V - 1 = 15 degrees of freedom at 0.001
CPU = torch.device("cpu")


def one_hot_logits(tokens: list[int]) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(tokens), 10).float()


def table(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("draft", "target", "emitted"),
    [
        ([1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4]),
        ([1, 2, 3], [1, 5, 3, 4], [1, 5]),
        ([1, 2, 3], [1, 2, 9, 4], [1, 2, 9]),
        ([1, 2, 3], [7, 2, 3, 4], [7]),
        ([], [6], [6]),
    ],
    ids=[
        "all: bonus",
        "a later match does not count",
        "last differs",
        "none: still one",
        "no draft: plain decoding",
    ],
)
def test_greedy_emits_prefix_plus_one(draft: list[int], target: list[int], emitted: list[int]) -> None:
    got = accept_greedy(torch.tensor(draft, dtype=torch.long), one_hot_logits(target))
    assert got.tolist() == emitted


def test_greedy_breaks_ties_to_the_lowest_id() -> None:
    tied = torch.tensor([[1.0, 2.0, 2.0], [2.0, 1.0, 2.0]])
    assert accept_greedy(torch.tensor([2]), tied).tolist() == [1]
    assert accept_greedy(torch.tensor([1]), tied).tolist() == [1, 0]


@pytest.mark.parametrize("rows", [2, 4])
def test_logits_must_cover_the_draft_and_one_more(rows: int) -> None:
    with pytest.raises(ValueError, match=f"need 3 target rows, got {rows}"):
        accept_greedy(torch.tensor([1, 2]), torch.zeros(rows, V))


def test_every_drafted_token_needs_its_distribution() -> None:
    with pytest.raises(ValueError, match="need 2 draft rows, got 1"):
        accept_sampling(torch.tensor([1, 2]), torch.ones(1, V), torch.ones(3, V), torch.Generator())


class TestResidual:
    def test_excess_of_the_target_scaled_to_one(self) -> None:
        got = residual(table([0.5, 0.3, 0.2, 0.0])[0], table([0.7, 0.1, 0.0, 0.2])[0])
        assert got.tolist() == pytest.approx([0.0, 0.5, 0.5, 0.0])

    def test_accepting_and_resampling_add_up_to_the_target(self) -> None:
        """min(p, q) + P(reject) * residual = p, by enumeration over every drafted token."""
        target, draft = torch.rand(2, 200, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        target, draft = target / target.sum(1, keepdim=True), draft / draft.sum(1, keepdim=True)
        for p, q in zip(target, draft, strict=True):
            accepted = q * (p / q).clamp_max(1)
            law = accepted + (1 - accepted.sum()) * residual(p, q)
            assert torch.allclose(law, p, atol=1e-12)

    def test_disjoint_supports_leave_the_target(self) -> None:
        target = table([0.5, 0.5, 0.0, 0.0])[0]
        assert torch.equal(residual(target, table([0.0, 0.0, 0.5, 0.5])[0]), target)

    def test_equal_distributions_leave_the_target(self) -> None:
        target = table([0.1, 0.2, 0.3, 0.4])[0]
        assert torch.equal(residual(target, target), target)


FIRST = table([0.45, 0.3, 0.15, 0.1])[0]  # target of the first token
THEN = table([0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.4, 0.1], [0.1, 0.6, 0.2, 0.1])
LAST = table([0.3, 0.3, 0.2, 0.2])[0]  # target of the third, independent of the others
DRAFT_FIRST = table([0.1, 0.5, 0.3, 0.1])[0]
DRAFT_THEN = table([0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.2, 0.5], [0.25, 0.25, 0.4, 0.1], [0.0, 0.5, 0.5, 0.0])


def two_tokens(generator: torch.Generator, drafted: int) -> tuple[int, int]:
    """The first two tokens of one trial; a round that emits one is followed by plain sampling."""
    draft: list[int] = []
    draft_rows = [DRAFT_FIRST]
    for _ in range(drafted):
        draft.append(int(draw(draft_rows[-1][None], generator)))
        draft_rows.append(DRAFT_THEN[draft[-1]])
    target_rows = [FIRST, *(THEN[token] for token in draft[:1]), LAST][: drafted + 1]
    emitted = accept_sampling(
        torch.tensor(draft, dtype=torch.long),
        torch.stack(draft_rows)[:drafted],
        torch.stack(target_rows),
        generator,
    ).tolist()
    if len(emitted) == 1:
        emitted.append(int(draw(THEN[emitted[0]][None], generator)))
    return emitted[0], emitted[1]


def joint_statistic(drafted: int, trials: int) -> float:
    """Chi-square of the first two tokens against the target's own joint distribution."""
    generator = torch.Generator().manual_seed(0)
    counts = Counter(two_tokens(generator, drafted) for _ in range(trials))
    expected = {(a, b): float(FIRST[a] * THEN[a, b]) * trials for a in range(V) for b in range(V)}
    return sum((counts[pair] - mean) ** 2 / mean for pair, mean in expected.items())


class TestSampling:
    @pytest.mark.parametrize(("drafted", "trials"), [(0, FEW), (1, TRIALS), (2, TRIALS)])
    def test_joint_distribution_is_the_targets(self, drafted: int, trials: int) -> None:
        assert joint_statistic(drafted, trials) < CRITICAL

    def test_without_the_residual_the_test_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(methods.core.acceptance, "residual", lambda target, draft: target)
        assert joint_statistic(1, FEW) > 2 * CRITICAL

    def test_with_a_flattened_bonus_the_test_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flattened: Callable[[Tensor, torch.Generator], Tensor] = lambda p, g: draw(p.sqrt(), g)  # noqa: E731
        monkeypatch.setattr(methods.core.acceptance, "draw", flattened)
        assert joint_statistic(1, FEW) > 2 * CRITICAL

    def test_a_draft_from_the_target_itself_is_always_accepted(self) -> None:
        generator = torch.Generator().manual_seed(0)
        for _ in range(200):
            draft = draw(FIRST.expand(2, -1), generator)
            emitted = accept_sampling(draft, FIRST.expand(2, -1), FIRST.expand(3, -1), generator)
            assert emitted[:2].tolist() == draft.tolist()
            assert emitted.numel() == 3

    def test_a_token_the_target_rules_out_is_never_accepted(self) -> None:
        generator = torch.Generator().manual_seed(0)
        target = table([0.0, 0.5, 0.5, 0.0])[0]
        for token in (0, 3):
            emitted = accept_sampling(
                torch.tensor([token]), table([0.5, 0.0, 0.0, 0.5]), target.expand(2, -1), generator
            )
            assert emitted.numel() == 1
            assert emitted.item() in {1, 2}

    def test_acceptance_rate_is_the_overlap_of_the_distributions(self) -> None:
        generator = torch.Generator().manual_seed(0)
        target = torch.stack([FIRST, LAST])
        accepted = 0
        for _ in range(FEW):
            draft = draw(DRAFT_FIRST[None], generator)
            accepted += accept_sampling(draft, DRAFT_FIRST[None], target, generator).numel() - 1
        overlap = float(torch.minimum(FIRST, DRAFT_FIRST).sum())
        assert accepted / FEW == pytest.approx(overlap, abs=0.03)  # more than four standard errors


class TestAccept:
    LOGITS = torch.stack([FIRST, THEN[1], LAST]).log()

    def sampler(self, temperature: float, top_k: int = 0, seed: int = 0) -> Sampler:
        return Sampler(Sampling(temperature, top_k), CPU, seed)

    def test_a_greedy_sampler_takes_the_greedy_rule(self) -> None:
        emitted = accept(torch.tensor([0, 0]), None, self.LOGITS, self.sampler(0.0))
        assert emitted.tolist() == [0, 0, 0]

    def test_the_targets_are_warped_as_the_sampler_says(self) -> None:
        draft = torch.tensor([1, 2])
        draft_probs = torch.stack([DRAFT_FIRST, DRAFT_THEN[1]])
        got = accept(draft, draft_probs, self.LOGITS, self.sampler(0.7, top_k=2, seed=5))
        warped = self.sampler(0.7, top_k=2).probabilities(self.LOGITS)
        expected = accept_sampling(draft, draft_probs, warped, torch.Generator().manual_seed(5))
        assert got.tolist() == expected.tolist()

    @pytest.mark.parametrize("token", range(V))
    def test_a_lookup_draft_keeps_the_targets_distribution(self, token: int) -> None:
        """The first token emitted after a fixed draft follows the target's distribution."""
        sampler = self.sampler(0.7, seed=token)
        logits = torch.stack([FIRST, LAST]).log()
        draft = torch.tensor([token])
        counts = Counter(int(accept(draft, None, logits, sampler)[0]) for _ in range(FEW))
        expected = self.sampler(0.7).probabilities(logits)[0] * FEW
        statistic = sum((counts[i] - float(expected[i])) ** 2 / float(expected[i]) for i in range(V))
        assert statistic < 16.3  # chi-square of 3 degrees of freedom at 0.001
