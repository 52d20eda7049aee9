"""Every method that can draft from the most frequent tokens alone: exact output, and drafts from the list."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from bench.compose.components import Component
from bench.errors import UserError
from bench.prove.premises import drafter_of
from bench.runtime.linear import CompiledProduct
from bench.runtime.sampling import Sampling
from methods.core.chain import Draft
from tests.harness import CONF
from tests.methods.checks import check_greedy, check_sampling
from tests.methods.options import VOCABULARY, Subject, attached, settings_of
from tests.methods.small import prompt, run
from tests.runtime.models import AUTO, needs_compiler

DRAFTERS = sorted(
    path.stem for path in (CONF / "method").glob("*.yaml") if "frequent_tokens" in OmegaConf.load(path)
)
FEW = 12
"""Tokens that may be drafted, half of the vocabulary and as many as the widest tree needs."""
LIST = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(5)).tolist()


def component(option: str, size: int | None, folder: Path, **changes: Any) -> Component:
    file = folder / "tokens.json"
    file.write_text(json.dumps({"vocabulary": VOCABULARY, "ids": LIST}))
    configured = settings_of(option).method
    drafted = {"draft_vocab": size, "frequent_tokens": str(file), **changes}
    return replace(configured, params={**configured.params, **drafted})


def subject(option: str, size: int | None, folder: Path, **more: Any) -> Subject:
    return attached(component(option, size, folder), folder / "modules", **more)[1]


def test_all_methods_that_draft_by_the_targets_head_are_here() -> None:
    assert [
        *("clasp", "conflayers", "del", "draft_verify", "eagle3", "hamburger_verified", "hidden_transfer"),
        *("kangaroo", "kangaroo_tree", "knapspec", "layerskip", "lookahead", "m2r2", "mask_tokens", "medusa"),
        "swift",
    ] == DRAFTERS


@pytest.mark.parametrize("option", DRAFTERS)
def test_greedy_output_is_the_targets_own(option: str, tmp_path: Path) -> None:
    for tier in sorted({AUTO, "static"}):
        check_greedy(subject(option, FEW, tmp_path, tier=tier), lengths=(17,))


@pytest.mark.parametrize("option", DRAFTERS)
def test_sampled_output_is_distributed_as_the_targets_own(option: str, tmp_path: Path) -> None:
    check_sampling(subject(option, FEW, tmp_path))


@needs_compiler
@pytest.mark.parametrize("option", DRAFTERS)
def test_a_head_in_8_bits_drafts_and_leaves_the_output_as_it_is(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, multiply = list[tuple[bool, int]](), CompiledProduct._product

    def noted(product: CompiledProduct, x: Tensor, residual: Tensor | None) -> Tensor:
        shapes.append((product._scales is not None, product.shape[0]))
        return multiply(product, x, residual)

    monkeypatch.setattr(CompiledProduct, "_product", noted)
    check_greedy(subject(option, FEW, tmp_path, tier="compiled", drafts_in_int8=True), lengths=(17,))
    rounded = {is_rounded for is_rounded, outputs in shapes if outputs == FEW}
    assert rounded == {True} or (option == "lookahead" and not rounded)  # it drafts by the target's passes


@needs_compiler
def test_a_head_in_8_bits_leaves_sampled_output_distributed_as_it_is(tmp_path: Path) -> None:
    check_sampling(subject("kangaroo", FEW, tmp_path, tier="compiled", drafts_in_int8=True))


@pytest.mark.parametrize("option", [name for name in DRAFTERS if name != "lookahead"])
@pytest.mark.parametrize("temperature", [0.0, 1.5], ids=["greedy", "sampled"])
def test_a_drafted_token_is_always_in_the_list(option: str, temperature: float, tmp_path: Path) -> None:
    tested = subject(option, FEW, tmp_path)
    drafter: Any = drafter_of(tested.method)
    own, drafts = drafter.draft, list[Any]()

    def watched(*arguments: Any) -> Any:
        drafts.append(own(*arguments))
        return drafts[-1]

    drafter.draft = watched
    run(tested.method, prompt(vocabulary=VOCABULARY), sampling=Sampling(temperature))
    allowed, outside = set(LIST[:FEW]), LIST[FEW:]
    tokens = [token for draft in drafts for token in drafted(draft).tolist()]
    assert len(tokens) > 10
    assert set(tokens) <= allowed
    stated = [draft.probs for draft in drafts if isinstance(draft, Draft) and draft.probs is not None]
    assert bool(stated) == (temperature > 0 and isinstance(drafts[0], Draft))
    for probs in stated:
        assert probs.shape[1] == VOCABULARY
        assert not probs[:, outside].any()
        torch.testing.assert_close(probs.sum(dim=-1), torch.ones(probs.shape[0]))


def drafted(draft: Any) -> Tensor:
    """Its tokens, without the root of a tree."""
    return draft.tokens if isinstance(draft, Draft) else draft.tokens[1:]


def test_lookahead_guesses_from_the_list(tmp_path: Path) -> None:
    method: Any = subject("lookahead", FEW, tmp_path).method
    run(method, prompt(vocabulary=VOCABULARY))
    assert {token for row in method._grid for token in row[1:]} <= set(LIST[:FEW])


@pytest.mark.parametrize("option", DRAFTERS)
def test_a_list_of_all_tokens_drafts_as_without_a_list(option: str, tmp_path: Path) -> None:
    answers = []
    for size in (None, VOCABULARY):
        tested = subject(option, size, tmp_path)
        generations = [
            run(tested.method, prompt(vocabulary=VOCABULARY), sampling=Sampling(temperature))
            for temperature in (0.0, 1.0)
        ]
        answers.append([(generation.ids, generation.rounds) for generation in generations])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("option", DRAFTERS)
def test_a_bad_number_of_tokens_is_refused_in_two_lines(option: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="draft_vocab must be at least 1") as refusal:
        component(option, 0, tmp_path).build()
    assert len(str(refusal.value).splitlines()) == 2
    with pytest.raises(UserError, match=r"draft_vocab must lie in \d+\.\.24 here, got 25") as refusal:
        subject(option, VOCABULARY + 1, tmp_path)
    assert len(str(refusal.value).splitlines()) == 2
    with pytest.raises(UserError, match="needs a list of frequent tokens"):
        attached(component(option, FEW, tmp_path, frequent_tokens=None), tmp_path / "modules")


def test_a_tree_wider_than_the_list_is_refused(tmp_path: Path) -> None:
    for option in ("medusa", "hidden_transfer"):
        tested = component(option, 2, tmp_path, tree={"": 3, "0": 1})
        with pytest.raises(UserError, match="the draft needs 3 to choose from"):
            attached(tested, tmp_path / option)


def test_output_that_nothing_verifies_takes_the_whole_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="draft_vocab needs verification"):
        component("m2r2", FEW, tmp_path, lossy=True).build()
