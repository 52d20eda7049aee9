"""Every configured method becomes a subject, with its own modules or random ones, or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from bench.compose.components import Component
from bench.errors import UserError
from bench.prove.subject import DEPTHS, attach_random, attach_shipped, first_fit
from bench.prove.targets import as_decoder, random_model
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions
from methods.core.base import Method
from methods.early_exit.prefix import PrefixExit

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "bench" / "assets" / "tiny" / "modules"
OPTIONS = RuntimeOptions(torch.device("cpu"), torch.float32, 128)


def decoder(depth: int) -> Decoder:
    return as_decoder(random_model("llama", depth, OPTIONS, vocabulary=24, seed=0), OPTIONS)


def configured(name: str) -> Component:
    tree = OmegaConf.create(
        {"model": {"modules": str(MODULES), "frequent_tokens": None, "draft_vocab": None}}
    )
    tree.method = OmegaConf.load(ROOT / "conf" / "method" / f"{name}.yaml")
    return Component.from_node("method", name, OmegaConf.to_container(tree.method, resolve=True))


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")))
def test_a_method_fits_a_random_model_or_says_why_not(name: str) -> None:
    try:
        depth, method = first_fit(configured(name), decoder, seed=0, depths=DEPTHS[:2])
    except UserError as refusal:
        pytest.skip(refusal.what)
    assert isinstance(method, Method)
    assert depth in DEPTHS


def test_random_modules_are_the_same_for_the_same_seed_and_leave_the_global_stream_alone() -> None:
    model, ids = decoder(4), torch.arange(5)
    state = torch.random.get_rng_state()
    drafts = []
    for seed in (1, 1, 2):
        method = attach_random(configured("kangaroo"), model, seed)
        method.prefill(ids)  # type: ignore[attr-defined]
        row = PrefixExit(model, 5, 1).advance(ids[:1])
        drafts.append(method._adapt(row))  # type: ignore[attr-defined]
    assert torch.equal(drafts[0], drafts[1])
    assert not torch.equal(drafts[0], drafts[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_shipped_modules_of_another_model_are_refused() -> None:
    with pytest.raises(UserError, match="does not fit this model"):
        attach_shipped(configured("kangaroo"), decoder(4))
