"""Figures of lossy runs: worked examples, the cost model's published values, and that no verdict is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.measure.verdicts import check_counts, reference_nll
from bench.metrics.counts import UndefinedError
from bench.metrics.lossy import (
    Answers,
    PassWeights,
    agreement_length,
    answers,
    cache_share,
    group_sizes,
    kv_entries_per_token,
    nll_per_token,
    speedup_bound,
)
from bench.metrics.run_figures import lossy_figures
from bench.metrics.summary import summarise
from bench.records.model import Arm, Equivalence, Round, Run, Sample, Timing, Verdict
from bench.records.rounds import Rounds
from bench.show.table import run_table
from tests.methods.small import prompt, random_decoder


def sample(arm: Arm = Arm.METHOD, prompt_id: str = "a", **changes: object) -> Sample:
    """Ten tokens: groups of 4, 1, 3 and, cut by the end, 2."""
    rounds = Rounds.of(
        [
            Round(3, 3, 4, 3, "length"),
            Round(0, 0, 1, 0, "confidence"),
            Round(2, 2, 3, 2, "confidence"),
            Round(2, 2, 1, 2, "length"),
        ]
    )
    plain = Rounds.of(Round(0, 0, 1, 0, "length") for _ in range(9))
    timing = Timing(0.1, 1.0 if arm is Arm.METHOD else 2.0, {}, 1.0)
    is_method = arm is Arm.METHOD
    fields = {"prompt_tokens": 5, "ids": tuple(range(10)), "timing": timing, "is_right": True}
    fields |= {
        "rounds": rounds if is_method else plain,
        "counts": {"kv_entries": 3} if is_method else {},
    }
    fields |= {"equivalence": Equivalence(Verdict.UNCHECKED, 6) if is_method else None}
    fields |= {"reference_nll": 5.0 if is_method else 1.0}
    return Sample(prompt_id, "qa", 0, 0, arm, 0, **{**fields, **changes})  # type: ignore[arg-type]


def lossy_run(confidence: float = 0.7, **labels: object) -> Run:
    identity = {"method": {"target": "methods.hamburger.draft.Hamburger", "confidence": confidence}}
    weights = {"base": 1_235_800, "head": 262_700, "micro": 243_300, "stop": 8_400, "merger": 21_000}
    stated = {"exactness": "lossy", "pass_weights": weights, **labels}
    return Run("hamburger-qa-tiny-00000000", "hamburger", "qa", "tiny", identity, {}, labels=stated)


def pair(**changes: object) -> list[Sample]:
    return [sample(Arm.BASELINE), sample(**changes)]


def test_groups_sum_to_the_output() -> None:
    assert group_sizes([sample()]) == {1: 1, 2: 1, 3: 1, 4: 1}
    ended_by_a_pass = sample(ids=tuple(range(9)), rounds=sample().rounds[:3])
    assert group_sizes([ended_by_a_pass]) == {1: 2, 3: 1, 4: 1}


def test_a_sample_of_one_token_is_one_group() -> None:
    assert group_sizes([sample(ids=(1,), rounds=Rounds.of(), counts={"kv_entries": 0})]) == {1: 1}


def test_methods_that_cache_every_token_have_no_groups() -> None:
    assert group_sizes([sample(Arm.BASELINE)]) == {}
    with pytest.raises(UndefinedError):
        kv_entries_per_token([sample(Arm.BASELINE)])


def test_cache_entries_are_counted_relative_to_plain_decoding() -> None:
    assert kv_entries_per_token([sample()]) == pytest.approx(3 / 9)
    assert cache_share([sample()]) == pytest.approx((5 + 3) / (5 + 9))


def test_entries_that_do_not_match_the_passes_are_refused() -> None:
    check_counts(sample())
    check_counts(sample(counts={"kv_entries": 7}))  # some groups are not merged yet
    with pytest.raises(ValueError, match="2 cache entries for 4 rounds"):
        check_counts(sample(counts={"kv_entries": 2}))
    with pytest.raises(ValueError, match="9 cache entries for 4 rounds, 3 of them whole, which have read 8"):
        check_counts(sample(counts={"kv_entries": 9}))


def test_likelihood_and_agreement_are_pooled() -> None:
    same = sample(equivalence=Equivalence(Verdict.UNCHECKED, None), reference_nll=None)
    assert nll_per_token([sample(), same]) == pytest.approx(5.0 / 10)
    assert agreement_length([sample(), same]) == pytest.approx((6 + 10) / 2)


def test_only_checkable_answers_count() -> None:
    right = answers([sample(), sample(is_right=False), sample(is_right=None)])
    assert right == Answers(1, 2)
    assert right.share == 0.5
    assert answers([sample(is_right=None)]).share is None


@pytest.mark.parametrize(("size", "bound"), [(1, 0.993), (2, 1.39), (3, 1.62), (4, 1.76)])
def test_bound_of_the_published_model(size: int, bound: float) -> None:
    weights = PassWeights(
        base=1_235_814_400, head=262_668_288, micro=243_286_016, stop=8_394_753, merger=20_983_808
    )
    assert speedup_bound({size: 7}, weights) == pytest.approx(bound, abs=0.005)


def test_a_lossless_run_has_no_such_figures() -> None:
    assert lossy_figures(lossy_run(exactness="greedy-exact"), pair()) is None


def test_the_table_shows_quality_in_place_of_a_verdict() -> None:
    wrong = [replace(answer, prompt_id="b", is_right=answer.arm is Arm.BASELINE) for answer in pair()]
    shown = run_table(summarise(lossy_run(), [*pair(), *wrong]))
    assert "LOSSY" in shown
    assert "method 50.0% of 2, baseline 100.0% of 2" in shown
    assert "method 0.500, baseline 0.100" in shown
    assert "1: 2, 2: 2, 3: 2, 4: 2; 2.500 tokens per pass" in shown
    assert "0.333 per output token" in shown
    assert all(len(line) <= 110 for line in shown.splitlines())


@pytest.mark.parametrize("verdict", [Verdict.EXACT, Verdict.TIE_EXPLAINED, Verdict.UNCHECKED])
def test_no_record_makes_a_lossy_method_look_lossless(verdict: Verdict) -> None:
    """Even a sample that claims a verdict, whatever wrote it."""
    broken = pair(equivalence=Equivalence(verdict), ids=(9,) * 10, is_right=False, reference_nll=90.0)
    shown = run_table(summarise(lossy_run(), broken))
    assert "LOSSY" in shown
    assert "not the model's own" in shown
    assert "exact" not in shown
    assert "explained" not in shown


def test_likelihood_under_the_target_is_the_sum_over_its_steps() -> None:
    decoder, ids = random_decoder(), (5, 17, 3, 80)
    logits = [decoder.prefill(prompt())]
    logits += [decoder.step(torch.tensor([token]), 12 + i) for i, token in enumerate(ids[:-1])]
    logs = torch.cat(logits).log_softmax(dim=-1)
    expected = -sum(float(logs[i, token]) for i, token in enumerate(ids))
    assert reference_nll(decoder, prompt(), ids) == pytest.approx(expected, rel=1e-5)
