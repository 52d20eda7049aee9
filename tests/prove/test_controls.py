"""Methods broken on purpose: every one is caught, by the check it is meant for; honest ones pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.compose.schema import ModelConfig
from bench.prove.certificates import Check, Status
from bench.prove.config import ProveConfig
from bench.prove.control_run import Outcome, catch, caught_by
from bench.prove.controls import CONTROLS, HONEST, Control
from bench.prove.listing import control_lines
from bench.prove.models import Models

ALPHA = 1e-4


def models(draws: int) -> Models:
    config = ProveConfig(model=ModelConfig(path="package:bench/assets/tiny"), draws=draws, tokens=4)
    config.runtime.device = "cpu"
    return Models(config)


@pytest.fixture(scope="module")
def many() -> Models:
    """Large enough to catch the subtlest mistake: the command's own size is more than three times that."""
    return models(draws=600)


@pytest.fixture(scope="module")
def few() -> Models:
    return models(draws=250)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_the_check_it_is_meant_for_catches_it(control: Control, many: Models) -> None:
    """Premises catch all of them, see test_premises.py; the checks of the output must not depend on that."""
    caught = catch(control, many, ALPHA, (control.kind,))
    assert caught is not None
    assert caught.kind == control.kind
    if control.kind == "greedy":
        assert "first wrong round" in caught.detail


@pytest.mark.parametrize("control", HONEST, ids=lambda control: control.name)
def test_without_a_mistake_the_same_loops_pass(control: Control, few: Models) -> None:
    assert catch(control, few, ALPHA, ("greedy", "sampling")) is None  # premises: see test_premises.py


def test_a_refused_honest_variant_counts_as_an_escape() -> None:
    check = Check("greedy", "random llama", Status.FAILED, "prompt 0, first wrong round 1, token 1: ...")
    found = caught_by((Outcome(HONEST[0], check), Outcome(CONTROLS[0], check)))
    assert found == {CONTROLS[0].name: "greedy", HONEST[0].name: None}


def test_the_listing_names_what_escaped() -> None:
    control = replace(CONTROLS[0], name="a silent mistake")
    assert "a silent mistake  ESCAPED (passes)" in control_lines([Outcome(control, None)])
