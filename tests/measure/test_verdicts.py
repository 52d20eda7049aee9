"""Verdicts: what is exact, what a tie explains, what is a violation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.measure.verdicts import first_divergence, judge, rounding, teacher_force, tolerance
from bench.records.model import Verdict
from bench.runtime.decoder import Decoder
from methods.core.autoregressive import Autoregressive
from tests.methods.small import prompt, random_decoder, run


@pytest.mark.parametrize(
    ("ids", "baseline", "index"),
    [([1, 2, 3], [1, 2, 3], None), ([1, 9, 3], [1, 2, 3], 1), ([1, 2], [1, 2, 3], 2), ([7], [], 0)],
    ids=["equal", "a token differs", "one ends early", "no baseline"],
)
def test_first_divergence(ids: list[int], baseline: list[int], index: int | None) -> None:
    assert first_divergence(ids, baseline) == index


def test_the_targets_own_output_teacher_forces_to_argmax_everywhere() -> None:
    decoder = random_decoder()
    method = Autoregressive()
    method.attach(decoder)
    ids = run(method, prompt()).ids
    steps = teacher_force(decoder, prompt(), ids)
    assert [(step.rank, step.margin) for step in steps] == [(0, 0.0)] * len(ids)


def test_equal_ids_are_exact_and_a_second_choice_is_a_violation() -> None:
    decoder = random_decoder()
    method = Autoregressive()
    method.attach(decoder)
    ids = run(method, prompt()).ids
    assert judge(decoder, prompt(), ids, ids).verdict is Verdict.EXACT
    second = int(decoder.prefill(prompt())[0].topk(2).indices[1])
    verdict = judge(decoder, prompt(), (second,), ids)
    assert verdict.verdict is Verdict.VIOLATION
    assert verdict.rank == 1
    assert verdict.margin == pytest.approx(verdict.tie_margin)
    assert verdict.first_divergence == 0


def test_a_near_tie_is_explained() -> None:
    """Two vocabulary entries made equal but for a hair: taking the other one is no violation."""
    decoder = random_decoder()
    best = int(decoder.prefill(prompt())[0].argmax())
    twin = (best + 1) % 96
    weight = decoder.lm_head.weight.clone()
    weight[twin] = weight[best] * (1 - 1e-7)
    decoder.lm_head = type(decoder.lm_head)(weight)
    verdict = judge(decoder, prompt(), (twin,), (best,))
    assert verdict.verdict is Verdict.TIE_EXPLAINED
    assert 0 <= verdict.margin <= 1e-5


@pytest.mark.parametrize(
    ("dtype", "logit", "expected"),
    [
        (torch.float32, 30.0, 1e-5),
        (torch.bfloat16, 20.0, 2 * 2**-7 * 16),
        (torch.float16, -3.0, 2 * 2**-10 * 2),
    ],
)
def test_tolerance_scales_with_precision_and_size(dtype: torch.dtype, logit: float, expected: float) -> None:
    assert tolerance(dtype, logit) == pytest.approx(expected)


@pytest.mark.parametrize("change", [-1, 1], ids=["cut short", "goes on"])
def test_another_end_is_a_violation_though_every_token_is_the_targets_own(change: int) -> None:
    decoder = random_decoder()
    method = Autoregressive()
    method.attach(decoder)
    ids, other = (run(method, prompt(), new=new).ids for new in (12, 12 + change))
    assert judge(decoder, prompt(), other, ids).verdict is Verdict.VIOLATION


def test_without_a_baseline_for_the_prompt_tokens_are_judged_by_themselves() -> None:
    decoder = random_decoder()
    method = Autoregressive()
    method.attach(decoder)
    ids = run(method, prompt()).ids
    assert judge(decoder, prompt(), ids, ()).verdict is Verdict.TIE_EXPLAINED


@pytest.mark.parametrize("shift", [0.0, 0.5], ids=["as rounding goes", "beyond it"])
def test_in_half_precision_a_gap_is_held_against_what_plain_passes_of_several_rows_move(
    monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    """The emitted token lies further below the best than the margin: what plain passes move decides."""
    decoder = random_decoder(tier="static", dtype=torch.bfloat16)
    ids = _second_choice(decoder, prompt())
    gap = max(step.margin for step in teacher_force(decoder, prompt(), ids))
    monkeypatch.setattr("bench.measure.verdicts.tolerance", lambda dtype, top: gap / 2)
    monkeypatch.setattr("bench.measure.verdicts.rounding", lambda *_: gap - shift * gap)
    expected = Verdict.VIOLATION if shift else Verdict.TIE_EXPLAINED
    assert judge(decoder, prompt(), ids, ()).verdict is expected


def test_float32_is_never_given_more_than_its_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = random_decoder()
    monkeypatch.setattr("bench.measure.verdicts.rounding", lambda *_: 1e9)
    assert judge(decoder, prompt(), _second_choice(decoder, prompt()), ()).verdict is Verdict.VIOLATION


def test_rounding_moves_gaps_in_half_precision_and_hardly_in_float32() -> None:
    ids = tuple(range(1, 30))
    moved = {
        dtype: rounding(random_decoder(tier="static", dtype=dtype), prompt(), ids)
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert moved[torch.float32] < 1e-4 < moved[torch.bfloat16] < 0.5
    assert rounding(random_decoder(), prompt(), ids[:1]) == 0.0


def _second_choice(decoder: Decoder, ids: Tensor) -> tuple[int, ...]:
    """An answer of one token: the second best."""
    return (int(decoder.prefill(ids)[0].topk(2).indices[1]),)
