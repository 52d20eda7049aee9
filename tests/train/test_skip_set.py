"""The offline search for skipped sub-layers: its objective, what it counts, its command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from bench.errors import UserError
from bench.runtime.decoder import NO_SKIP, Skip
from bench.runtime.linear import Linear
from bench.train.cli import _train_method
from bench.train.data.heldout import Continuation, continue_greedily
from bench.train.skip_set.cli import SkipSetConfig, main, search_ratios
from bench.train.skip_set.rating import TextMatch, draft_cost, expected_rate, measured_rate
from methods.core.autoregressive import Autoregressive
from methods.skipping.sublayer_skip import SkippedModel, skip_of, sublayers
from tests.command import Done, mistake_lines, run_command
from tests.harness import ROOT
from tests.methods.skipping.skips import draft_verify
from tests.methods.small import prompt, random_decoder


@pytest.mark.parametrize(
    ("match", "cost", "most", "rate"),
    [
        (0.0, 0.5, 8, 1 / 1.5),  # no draft pays: one draft step is wasted
        (1.0, 0.5, 4, 5 / 3),
        (1.0, 1.0, 4, 1.0),
        (0.8, 0.25, 1, 1.8 / 1.25),
        (0.8, 0.25, 9, 2.952 / 1.75),  # three are best: two give 2.44 / 1.5, four 3.3616 / 2
    ],
)
def test_the_expected_rate_is_tokens_over_steps_at_the_best_length(
    match: float, cost: float, most: int, rate: float
) -> None:
    assert expected_rate(match, cost, most) == pytest.approx(rate)


def test_the_cost_of_a_draft_step_is_its_share_of_the_weights_that_a_step_reads() -> None:
    decoder = random_decoder()  # width 32, heads 4 + 2 kv of 8, MLP 64, 96 words
    attention, mlp, head = 32 * 64 + 32 * 32, 3 * 32 * 64, 96 * 32
    whole = 6 * (attention + mlp) + head
    assert draft_cost(decoder, NO_SKIP) == 1.0
    skipped = 2 * attention + mlp
    assert draft_cost(decoder, skip_of([1, 2], [5])) == pytest.approx((whole - skipped) / whole)
    small = Linear(decoder.lm_head.weight[:24])  # a draft vocabulary of a quarter of the words
    expected = (whole - skipped - 0.75 * head) / whole
    assert draft_cost(decoder, skip_of([1, 2], [5]), small) == pytest.approx(expected)


def texts_of(decoder: object) -> list[Continuation]:
    target = Autoregressive()
    target.attach(decoder)  # type: ignore[arg-type]
    return [continue_greedily(target, prompt(9, seed), 12, frozenset()) for seed in (3, 4)]


def test_match_counts_the_answers_tokens_after_the_first() -> None:
    decoder, skip = random_decoder(), skip_of([1, 3], [2])
    texts = texts_of(decoder)
    match = TextMatch(decoder, [*texts, Continuation(prompt(10), start=9)])  # the last is too short
    assert match.positions == 2 * 11
    assert match(NO_SKIP) == 1.0
    hits = 0
    with torch.inference_mode():
        for text in texts:
            skipped = SkippedModel(decoder)
            decoder.prefill(text.ids[:9])
            skipped.start(9, skip)
            for here, following in zip(text.ids[9:-1], text.ids[10:], strict=True):
                hits += int(skipped.advance(here[None]).argmax()) == int(following)
    assert match(skip) == pytest.approx(hits / 22)


def test_texts_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="long enough"):
        TextMatch(random_decoder(), [Continuation(prompt(10), start=9)])


def test_the_papers_objective_is_the_speed_of_the_method() -> None:
    decoder = random_decoder()
    method = draft_verify()
    method.attach(decoder)
    assert measured_rate(method, texts_of(decoder), 12) > 0


def test_each_ratio_starts_from_the_best_set_so_far_and_the_best_of_all_wins() -> None:
    seen: list[Skip] = []

    def rate(skip: Skip) -> float:
        """Best at six sub-layers."""
        seen.append(skip)
        return 1.0 - abs(sublayers(skip) - 6) / 10

    settings = SkipSetConfig(method={}, model=None, ratios=[0.25, 0.5, 0.8], max_iter=3, bayes_interval=0)  # type: ignore[arg-type]
    best, score, tries = search_ratios(settings, 6, rate)
    assert [sublayers(skip) for skip in seen] == [6, 3, 3, 3, 3, 6, 6, 6, 6, 6, 6, 9, 9, 9, 9]
    assert (sublayers(best), score, tries) == (6, 1.0, 12)


def skip_set(out: Path, *overrides: str) -> Done:
    small = ["per_subtask=1", "tokens=8", "ratios=[0.5]", "max_iter=1", "bayes_interval=0"]
    return run_command(main, *small, f"out={out}", f"hydra.run.dir={out}/log", *overrides)


def test_the_set_becomes_the_module_of_the_method(tmp_path: Path) -> None:
    got = skip_set(tmp_path / "searched")
    assert got.returncode == 0, got.stderr
    facts = json.loads((tmp_path / "searched" / "module.json").read_text())
    assert (facts["method"], facts["model"]) == ("draft_verify", "tiny")
    assert 0 < facts["search"]["match"] <= 1
    assert facts["search"]["tries"] == 2
    assert set(facts["skip"]["attention"]) <= set(range(16))


def test_a_method_without_a_set_is_refused_in_two_lines(tmp_path: Path) -> None:
    got = skip_set(tmp_path, "method=kangaroo")
    assert got.returncode == 2
    assert "method=kangaroo keeps no set of skipped sub-layers" in got.stderr
    assert len(mistake_lines(got.stderr)) == 2


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"objective": "guessed"}, "objective must be one of predicted, measured, got 'guessed'"),
        ({"ratios": [0.5, 1.2]}, "ratios must lie between 0 and 1"),
        ({"tokens": 1}, "tokens must be at least 2, got 1"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        SkipSetConfig(**changes)


def test_a_method_that_skips_is_not_trained_and_the_command_is_named() -> None:
    node = OmegaConf.load(ROOT / "conf" / "method" / "draft_verify.yaml")
    node.weights = None
    composed = OmegaConf.create(
        {"recipe": {}, "method": node, "model": {"draft_vocab": None, "frequent_tokens": None}}
    )
    with pytest.raises(UserError, match=r"python -m bench\.train\.skip_set"):
        _train_method(composed, "draft_verify", "tiny")
