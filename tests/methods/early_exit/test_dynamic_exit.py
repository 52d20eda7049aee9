"""DEL: which rows it rates its exits by, what it chooses, and that the output stays the target's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftHead, Sampling
from methods.core.chain import Draft
from methods.early_exit import dynamic_exit
from methods.early_exit.dynamic_exit import DynamicExit, Shadow, rate, shadow_sums
from tests.methods.hidden_transfer.transfers import own_ids
from tests.methods.small import FAMILIES, SHAPE, prompt, random_decoder, run, scale_writers

DEPTH = SHAPE["num_hidden_layers"]
DEFAULTS: dict[str, Any] = {
    "decay": 0.95,
    "lengths": 18,
    "draft_length": 18,
    "warmup": 32,
    "min_exit": 1,
    "max_exit": None,
    "stop": True,
    "exit_layer": None,
    "objective": "layers",
}


def bound(decoder: Decoder, **changes: Any) -> DynamicExit:
    method = DynamicExit(**{**DEFAULTS, **changes})
    method.attach(decoder)
    return method


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stop": False},
        {"exit_layer": 3},
        {"min_exit": 2, "max_exit": 4},
        {"objective": "time"},
        {"warmup": 0, "decay": 0.5},
    ],
    ids=str,
)
def test_greedy_ids_are_the_targets_own(changes: dict[str, Any], family: str) -> None:
    decoder = random_decoder(family)
    method = bound(decoder, **changes)
    for length in (1, 17):
        assert run(method, prompt(length)).ids == own_ids(decoder, prompt(length))
        assert decoder.cache.length == length + 39  # every layer holds all but the newest token


class Observed(DynamicExit):
    """Keeps the rows that its exits are rated by."""

    shadows: list[Shadow]

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self.shadows = []
        return super().prefill(prompt_ids)

    def _add_pending(self, shadow: Shadow) -> None:
        self.shadows.append(shadow)
        super()._add_pending(shadow)


def observed(decoder: Decoder, **changes: Any) -> Observed:
    method = Observed(**{**DEFAULTS, **changes})
    method.attach(decoder)
    return method


def test_exits_are_rated_by_the_rows_of_the_kept_tokens() -> None:
    """Prompt positions first, then each round's accepted tokens and the one after; never a rejected one."""
    decoder = random_decoder()
    method = observed(decoder, warmup=5)
    got = run(method, prompt(12), new=30)
    text = torch.cat([prompt(12), torch.tensor(got.ids)])
    kept = [shadow.target.numel() for shadow in method.shadows]
    assert kept == [6, *(round_.emitted for round_ in got.rounds)]
    plain = dict.fromkeys(range(1, DEPTH), decoder.embedding)
    with torch.inference_mode():
        decoder.prefill(text[:-1], plain)
    expected = torch.stack([plain[layer][6:] for layer in range(1, DEPTH)])
    torch.testing.assert_close(
        torch.cat([shadow.rows for shadow in method.shadows], dim=1), expected, atol=1e-4, rtol=0
    )
    assert torch.cat([shadow.target for shadow in method.shadows])[5:].tolist() == list(got.ids)


def test_sums_are_those_of_a_slow_count() -> None:
    logits = torch.randn(7, 20, generator=torch.Generator().manual_seed(0))
    target = logits.argmax(dim=-1)
    target[3:] = 5
    weights = np.linspace(0.1, 1, 7)
    by_hand = np.zeros(4)
    for row, choice, weight in zip(logits, target, weights, strict=True):
        probs = row.softmax(dim=-1)
        is_wrong = int(int(probs.argmax()) != int(choice))
        by_hand[[is_wrong, 2 + is_wrong]] += weight * np.array([1, float(probs.max())])
    head = DraftHead(random_decoder(vocab_size=20))
    sums = shadow_sums(rate(logits, head, target), weights)
    np.testing.assert_allclose(sums, by_hand, atol=1e-5)


@pytest.mark.parametrize("listed", [None, torch.tensor([2, 5, 7, 9])], ids=["whole", "list"])
def test_of_tied_logits_the_lowest_id_is_the_exits_token(listed: Tensor | None) -> None:
    """Low precision makes ties frequent; the token that would have been drafted is the one that counts."""
    head = DraftHead(random_decoder(vocab_size=20), listed)
    logits = torch.zeros(3, head.size, dtype=torch.bfloat16)
    logits[:, -2:] = 1.0
    first, second = head.tokens(torch.tensor([head.size - 2, head.size - 1])).tolist()
    assert rate(logits, head, torch.tensor([first, second, 0]))[0].tolist() == [1, 0, 0]


def test_few_rows_at_a_time_pass_through_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, rows = random_decoder(tier="static"), list[int]()
    scale_writers(decoder, 1, 0.2)
    whole = run(bound(decoder), prompt(), new=60)
    monkeypatch.setattr(dynamic_exit, "MOST_ROWS", 4)
    rate_few = dynamic_exit.rate

    def watched(logits: Tensor, head: DraftHead, target: Tensor) -> Tensor:
        rows.append(len(logits))
        return rate_few(logits, head, target)

    monkeypatch.setattr(dynamic_exit, "rate", watched)
    method = bound(decoder, draft_length=3, lengths=4)
    assert run(method, prompt(), new=60).ids == whole.ids
    assert max(rows) == 4


def test_averages_start_anew_with_every_prompt() -> None:
    decoder = random_decoder()
    method = bound(decoder)
    first = run(method, prompt(seed=3))
    run(method, prompt(seed=4))
    assert run(method, prompt(seed=3)) == first


def test_drafting_nothing_is_plain_decoding() -> None:
    """No exit of a random model agrees with its last layer, so nothing is worth drafting."""
    decoder = random_decoder()
    rounds = run(bound(decoder, max_exit=1), prompt(), new=20).rounds
    assert [(round_.drafted, round_.emitted) for round_ in rounds] == [(0, 1)] * 19


def test_exits_rated_late_lead_to_the_same_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with rating every exit in every round, on a model whose later layers change little."""
    decoder, settled = random_decoder(tier="static"), list[int]()
    scale_writers(decoder, 1, 0.2)  # so that early exits are often right

    class Counted(DynamicExit):
        def _settle(self, index: int) -> None:
            settled.append(index)
            super()._settle(index)

    method = Counted(**DEFAULTS)
    method.attach(decoder)
    late, few = run(method, prompt(), new=60), len(settled)
    monkeypatch.setattr(dynamic_exit, "MOST_PENDING", 1)
    assert run(method, prompt(), new=60) == late
    assert len({round_.exit_layer for round_ in late.rounds}) > 1
    assert few < (len(settled) - few) / 2


def test_a_fixed_exit_is_the_only_candidate() -> None:
    got = run(bound(random_decoder(), exit_layer=4), prompt())
    assert {round_.exit_layer for round_ in got.rounds} == {4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay": 2}, r"decay must lie in \[0, 1\], got 2"),
        ({"lengths": 0}, "lengths must be at least 1, got 0"),
        ({"objective": "joules"}, "objective must be one of layers, time, got 'joules'"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicExit(**{**DEFAULTS, **changes})


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)], ids=["greedy", "sampled"])
def test_exits_rated_ahead_lead_to_the_same_rounds(sampling: Sampling) -> None:
    """As on a GPU, where the drafts are rated before it is known which of them are accepted."""
    decoder, ahead = random_decoder(tier="static"), list[int]()
    scale_writers(decoder, 1, 0.2)  # so that some drafts are accepted in part, some as a whole
    after = run(bound(decoder), prompt(), new=60, sampling=sampling)

    class RatedAhead(DynamicExit):
        def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
            target = super().verify(root, draft, base)
            self._ahead = self._rate_ahead()
            ahead.append(self._ahead.ratings.shape[1])
            return target

    method = RatedAhead(**DEFAULTS)
    method.attach(decoder)
    assert run(method, prompt(), new=60, sampling=sampling) == after
    assert ahead == [max(1, round_.drafted) for round_ in after.rounds]
    assert {round_.drafted == round_.accepted for round_ in after.rounds} == {True, False}
