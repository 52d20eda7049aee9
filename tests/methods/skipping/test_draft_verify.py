"""Draft & Verify: a fixed set, a chain that stops when unsure, a threshold that follows acceptance."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.measure.runner import execute
from bench.records.model import Verdict
from bench.records.store import load_samples
from bench.runtime.decoder import Decoder
from bench.runtime.modules import save_provenance
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive
from methods.core.base import Stateful
from methods.core.chain import Draft
from methods.core.draft_length import ThresholdRule
from methods.skipping.draft_verify import DraftVerify
from methods.skipping.sublayer_skip import skip_of
from tests.methods.skipping.skips import draft_verify, tiny_settings
from tests.methods.small import prompt, random_decoder, run


def attached(decoder: Decoder, **changes: Any) -> DraftVerify:
    method = draft_verify(**changes)
    method.attach(decoder)
    return method


def test_the_threshold_follows_the_rounds_by_draft_and_verifys_own_rule() -> None:
    """The rule's numbers are in ``test_draft_length.py``; here, that every round reaches it."""
    rule, threshold, acceptance = ThresholdRule(target=0.9), 0.02, 0.0
    method = attached(random_decoder(), threshold=threshold)
    for round_ in run(method, prompt(9), new=40).rounds:
        if round_.drafted:
            acceptance = rule.acceptance(acceptance, round_.accepted / round_.drafted)
            threshold = rule.threshold(threshold, acceptance, is_full=round_.drafted == 12)
    assert method._policy.threshold == pytest.approx(threshold) != 0.02


def test_the_threshold_is_carried_over_unless_told_otherwise_and_a_reset_forgets_it() -> None:
    decoder = random_decoder()
    for carry_over in (True, False):
        method = attached(decoder, carry_over=carry_over, threshold=0.02)
        run(method, prompt(9), new=40)
        after_one = method._policy.threshold
        run(method, prompt(9), new=40)
        assert (method._policy.threshold == after_one) is not carry_over
        assert isinstance(method, Stateful)
        method.reset()
        assert method._policy.threshold == 0.02


def test_a_fixed_threshold_stays() -> None:
    method = attached(random_decoder(), is_adaptive=False, threshold=0.02)
    run(method, prompt(9))
    assert method._policy.threshold == 0.02


def test_with_nothing_skipped_every_drafted_token_is_accepted() -> None:
    method = attached(random_decoder(), skip_attention=[], skip_mlp=[], threshold=0.0, is_adaptive=False)
    got = run(method, prompt(), new=1 + 26)
    assert [(round_.drafted, round_.accepted, round_.stop) for round_ in got.rounds] == [
        (12, 12, "length")
    ] * 2


def test_drafting_stops_behind_an_unsure_token_and_keeps_it() -> None:
    got = run(attached(random_decoder(), threshold=1.0, is_adaptive=False), prompt(10), new=20)
    assert {round_.drafted for round_ in got.rounds[:-1]} == {1}
    assert {round_.stop for round_ in got.rounds[:-1]} == {"confidence"}


class Watched(DraftVerify):
    """Checks the lengths of the cache before and after every draft."""

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        assert self._decoder.cache.length == base  # raises where layers differ
        draft = super().draft(root, base, room, sampler)
        assert self._decoder.cache.length == base
        return draft


def test_layers_agree_between_rounds_and_the_ids_are_the_targets_own() -> None:
    decoder, baseline = random_decoder(), Autoregressive()
    baseline.attach(decoder)
    method = draft_verify(threshold=0.02)
    method.__class__ = Watched
    method.attach(decoder)
    got = run(method, prompt(10), new=50)
    assert got.ids == run(baseline, prompt(10), new=50).ids
    assert got.counts == {"skipped_sublayers": 5 * len(got.rounds), "sublayers": 12 * len(got.rounds)}


def test_sampling_is_repeatable_and_fills_the_budget() -> None:
    decoder = random_decoder()
    first, second = (
        run(attached(decoder, threshold=0.05), prompt(10), new=25, sampling=Sampling(1.0), seed=5)
        for _ in range(2)
    )
    assert first.ids == second.ids
    assert len(first.ids) == 25


def test_the_set_found_for_a_model_is_read_from_its_folder(tmp_path: Path) -> None:
    facts = {"method": "draft_verify", "skip": {"attention": [2, 4], "mlp": [1]}}
    save_provenance(tmp_path / "stored", facts)
    nothing_given = {"skip_attention": None, "skip_mlp": None}
    method = attached(random_decoder(), weights=str(tmp_path / "stored"), **nothing_given)
    assert method.skip == skip_of([2, 4], [1])
    given = attached(random_decoder(), weights=str(tmp_path / "stored"), skip_attention=[], skip_mlp=[3])
    assert given.skip == skip_of([], [3])


def test_a_missing_set_names_the_command_that_finds_one(tmp_path: Path) -> None:
    nothing_given = {"skip_attention": None, "skip_mlp": None}
    command = r".*\n.*python -m bench\.train\.skip_set method=draft_verify"
    with pytest.raises(UserError, match=r"holds no module\.json" + command):
        attached(random_decoder(), weights=str(tmp_path), **nothing_given)
    with pytest.raises(UserError, match=r"method\.weights is not set" + command):
        attached(random_decoder(), **nothing_given)


def test_a_set_for_a_deeper_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"skip_mlp names layers \[6, 9\], this model has 0\.\.5"):
        attached(random_decoder(), skip_mlp=[9, 6, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draft_length": 0}, "draft_length must be at least 1"),
        ({"skip_mlp": None}, "given together"),
        ({"target": 1.5}, "target must lie in"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draft_verify(**changes)


def test_probability_is_the_drafted_tokens_own_at_temperature_one() -> None:
    method = attached(random_decoder(), threshold=0.5)
    logits = torch.tensor([[2.0, 1.0, 0.0]])  # .67 .24 .09
    assert not method._is_unsure(logits, torch.tensor([0]))
    assert method._is_unsure(logits, torch.tensor([1]))


@pytest.mark.slow
def test_all_builtin_prompts_of_tiny_are_answered_exactly(results_dir: Path) -> None:
    samples = load_samples(execute(tiny_settings("draft_verify", results_dir)).run_dir)
    verdicts = Counter(sample.equivalence.verdict for sample in samples if sample.equivalence is not None)
    assert set(verdicts) == {Verdict.EXACT}
    assert verdicts.total() >= 480
