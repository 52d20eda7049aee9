"""Traits: what tables and predictions must know of a method, declared in one typed place."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from bench.errors import UserError
from methods.core.autoregressive import Autoregressive
from methods.core.base import Traits, traits_of
from tests.harness import CONF, composed_settings
from tests.methods.hamburger.hamburgers import TUNED_SEED, bound, unattached
from tests.methods.small import prompt, random_decoder, run

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
VARIANTS = {"hamburger/delayed": False, "hamburger/gated": True}


def built(name: str) -> Any:
    return composed_settings(f"method={name}").method.build()


def test_a_method_without_traits_has_the_defaults() -> None:
    assert traits_of(Autoregressive()) == Traits(False, False, False, None)


class Misdeclared(Autoregressive):
    traits = "cost only"


def test_traits_of_another_type_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"traits of Misdeclared must be methods\.core\.base\.Traits"
    ) as caught:
        traits_of(Misdeclared())
    assert caught.value.fix == "write traits = Traits(...) in the class, or leave it out"


def test_the_methods_declare_what_they_are() -> None:
    traits = {name: traits_of(built(name)) for name in METHODS}
    rewritten = {name for name, declared in traits.items() if declared.is_reimplementation}
    assert rewritten == {"clasp", "hidden_transfer", "kangaroo_tree", "m2r2", "m2r2_moe", "mask_tokens"}
    assert {name for name, declared in traits.items() if declared.is_cost_only} == {"synthetic"}
    one_row = {name for name, declared in traits.items() if declared.several_tokens_per_row}
    assert one_row == {"hamburger", "hamburger_reference"}


@pytest.mark.parametrize(("name", "has_one_row"), VARIANTS.items())
def test_a_hamburger_that_delays_merging_reads_several_rows(name: str, has_one_row: bool) -> None:
    assert traits_of(built(name)).several_tokens_per_row is has_one_row


def test_every_variant_of_hamburger_is_tested_here() -> None:
    files = {f"hamburger/{path.stem}" for path in Path(CONF / "method" / "hamburger").glob("*.yaml")}
    assert files == set(VARIANTS)


@pytest.mark.parametrize("delay", [0, 2])
def test_the_trait_of_hamburger_is_what_its_passes_do(delay: int) -> None:
    tuned, rows = random_decoder(seed=TUNED_SEED), list[int]()
    method = bound(tuned, merge_delay=delay)
    layers = tuned.run_layers

    def counted(hidden: Tensor, *arguments: Any, **named: Any) -> Tensor:
        rows.append(hidden.shape[0])
        return layers(hidden, *arguments, **named)

    tuned.run_layers = counted  # type: ignore[method-assign]
    rounds = run(method, prompt(9), new=40).rounds
    passes = rows[1:]  # after the prefill
    assert max(step.emitted for step in rounds) > 1
    assert (set(passes) == {1}) is traits_of(method).several_tokens_per_row


def test_weights_that_passes_read_are_known_once_a_method_is_attached() -> None:
    assert traits_of(unattached()).pass_weights is None
    weights = traits_of(bound()).pass_weights
    assert weights is not None
    assert set(weights) == {"base", "head", "micro", "stop", "merger"}


@pytest.mark.parametrize("name", [field.name for field in fields(Traits)])
def test_a_trait_declared_as_an_attribute_of_its_own_is_refused(name: str) -> None:
    """Nothing would read it: such an attribute once made predictions wrong."""
    method = Autoregressive()
    setattr(method, name, True)
    with pytest.raises(UserError, match=f"has the attribute {name}, which is one of its traits"):
        traits_of(method)
