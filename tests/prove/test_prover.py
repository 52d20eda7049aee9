"""Certificates of whole methods: what is checked where, and that configured methods hold their promise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from torch import Tensor

from bench.compose.components import Component
from bench.compose.schema import ModelConfig, RuntimeConfig
from bench.prove.certificates import Certificate
from bench.prove.config import ProveConfig
from bench.prove.controls import Chain
from bench.prove.models import Models
from bench.prove.prover import Prover, Step
from bench.prove.targets import SPARSE
from bench.records.model import Generation
from bench.runtime.sampling import Sampler
from methods.core.base import Budget, Clock, Exactness
from tests.runtime.models import needs_compiler

ROOT = Path(__file__).resolve().parents[2]
TINY = "package:bench/assets/tiny"
MODULES = {"model": {"modules": f"{TINY}/modules", "frequent_tokens": f"{TINY}/frequent_tokens.json"}}
SMALL = ProveConfig(
    model=ModelConfig(path=TINY),
    runtime=RuntimeConfig(device="cpu"),
    prompts=1,
    max_new_tokens=12,
    draws=200,
    tokens=4,
)
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))


class GreedyOnly(Chain):
    """Promises nothing when it samples."""

    def exactness(self, sampler: Sampler) -> Exactness:
        return Exactness.GREEDY_EXACT if sampler.is_greedy else Exactness.LOSSY


class Crashing(Chain):
    """Breaks down at its first answer."""

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        raise RuntimeError("layers hold different lengths")


class Misplaced(Chain):
    """Names its greedy promise when it samples."""

    def exactness(self, sampler: Sampler) -> Exactness:
        return Exactness.GREEDY_EXACT


@pytest.fixture(scope="module")
def prover() -> Prover:
    """A small proof; its models serve all tests."""
    return Prover(SMALL, Models(SMALL))


@pytest.fixture
def one_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.prove.prover.FAMILIES", ("llama",))


def certified(prover: Prover, component: Component) -> Certificate:
    """As the command makes it: with what became of the controls."""
    declared = prover.declared(component)
    checks = [prover.check(component, step, declared) for step in prover.steps(declared)]
    return replace(prover.certificate(component, declared, checks, {}), controls={"off by one": "greedy"})


def here(method: type) -> Component:
    return Component("method", method.__name__.lower(), f"{__name__}.{method.__name__}", {})


@needs_compiler
@pytest.mark.usefixtures("one_family")
def test_a_proof_with_a_rounded_head_checks_that_head_and_says_so() -> None:
    config = replace(SMALL, runtime=RuntimeConfig(device="cpu", draft_head="int8"))
    models = Models(config)
    assert models.tiers == {"float32": "compiled (draft head in int8)", "bfloat16": "static"}
    assert models.random("llama", 3, "fp32").decoder.drafts_in_int8
    assert not models.random(SPARSE, 3, "fp32").decoder.drafts_in_int8
    prover, method = Prover(config, models), configured("kangaroo", draft_vocab=64)
    declared = prover.declared(method)
    check = prover.check(method, Step("premises", "llama"), declared)
    assert check.status == "passed"
    assert prover.certificate(method, declared, [check], {}).tiers == models.tiers


def test_a_promise_is_checked_under_the_sampler_it_is_made_for(prover: Prover, one_family: None) -> None:
    made = certified(prover, here(GreedyOnly))
    assert made.verdict == "greedy proved, sampling named lossy"
    assert {check.kind for check in made.checks} == {"rules", "premises", "greedy", "greedy half"}


def test_a_greedy_promise_does_not_cover_sampling(prover: Prover, one_family: None) -> None:
    assert prover.declared(here(Misplaced)) == {"greedy": "greedy-exact", "sampling": "lossy"}


def test_a_method_that_breaks_down_fails_and_says_how(prover: Prover, one_family: None) -> None:
    made = certified(prover, here(Crashing))
    assert made.verdict == "FAILED"
    assert all(check.detail == "RuntimeError: layers hold different lengths" for check in made.failures)


def test_without_shipped_weights_random_ones_are_checked_and_the_lack_is_told(
    prover: Prover, one_family: None, tmp_path: Path
) -> None:
    params = {"weights": str(tmp_path), "exit_layer": 1, "draft_length": 3, "threshold": 0.0}
    made = certified(prover, Component("method", "kangaroo", "methods.kangaroo.draft.Kangaroo", params))
    assert made.verdict == "proved"
    (shipped,) = [check for check in made.checks if check.kind == "greedy" and check.subject == "tiny"]
    assert shipped.status == "not provable here"
    assert "holds no module.safetensors" in shipped.detail


DRAFTERS = [
    name
    for name in METHODS
    if "frequent_tokens" in (ROOT / "conf" / "method" / f"{name}.yaml").read_text(encoding="utf-8")
]


def configured(name: str, **changes: object) -> Component:
    """A method with the modules and the list of frequent tokens of the embedded model."""
    tree = OmegaConf.create({**MODULES, "method": OmegaConf.load(ROOT / "conf" / "method" / f"{name}.yaml")})
    node = OmegaConf.to_container(OmegaConf.merge(tree, {"method": changes}).method, resolve=True)
    return Component.from_node("method", name, node)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        (name, Step("premises", "llama") if place % 2 else Step("greedy"))
        for place, name in enumerate(DRAFTERS)
    ],
)
def test_drafts_of_64_tokens_alone_keep_the_promise(
    name: str, step: Step, prover: Prover, one_family: None
) -> None:
    """In turn watched on a random model with a list of its own, and greedy on `tiny` with the shipped list.

    ``tests/methods/test_draft_vocab.py`` has every method's ids and drafts on random models.
    """
    method = configured(name, draft_vocab=64)
    declared = prover.declared(method)
    assert declared == {"greedy": "greedy-exact", "sampling": "sampling-exact"}
    check = prover.check(method, step, declared)
    assert check.status == "passed", check.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_configured_method_holds_its_promise(name: str, prover: Prover) -> None:
    assert not certified(prover, configured(name)).failures
