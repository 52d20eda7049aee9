"""Puts methods that are broken on purpose through the checks: each must be caught, honest ones must pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.prove.certificates import Check, Status
from bench.prove.controls import Control
from bench.prove.greedy import check_exact
from bench.prove.models import Models
from bench.prove.premises import check_premises
from bench.prove.sampling import SETTINGS, check_sampling
from bench.prove.subject import DEPTHS
from bench.prove.targets import FAMILIES
from bench.runtime.sampling import Sampling

KINDS = ("premises", "greedy", "sampling")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a control.

    Args:
        control: Which one.
        caught: The check that failed; None if all passed.
    """

    control: Control
    caught: Check | None

    @property
    def is_as_expected(self) -> bool:
        """A broken variant is caught, an honest one passes."""
        return (self.caught is not None) == self.control.is_broken


def caught_by(outcomes: tuple[Outcome, ...]) -> dict[str, str | None]:
    """By broken variant, the kind of check that caught it; a refused honest one counts as an escape."""
    broken = [outcome for outcome in outcomes if outcome.control.is_broken]
    kinds = {outcome.control.name: outcome.caught.kind if outcome.caught else None for outcome in broken}
    return kinds | {outcome.control.name: None for outcome in outcomes if not outcome.is_as_expected}


def catch(control: Control, models: Models, alpha: float, kinds: tuple[str, ...] = KINDS) -> Check | None:
    """The first check of these kinds that a variant fails; None if it passes all."""
    checks = (check for kind in kinds for check in _checks(kind, control, models, alpha))
    return next((check for check in checks if check.status is Status.FAILED), None)


def _checks(kind: str, control: Control, models: Models, alpha: float) -> Iterator[Check]:
    if kind == "sampling":
        yield from _sampling(control, models, alpha)
        return
    for family in FAMILIES:
        target = models.random(family, DEPTHS[0], "fp32")
        method = control.build()
        method.attach(target.decoder)
        samplings = (Sampling(), SETTINGS[0])
        is_greedy = kind == "greedy"
        yield check_exact(method, target) if is_greedy else check_premises(method, target, samplings, 0)


def _sampling(control: Control, models: Models, alpha: float) -> Iterator[Check]:
    toy = models.toy(DEPTHS[0])
    for sampling in SETTINGS:
        method = control.build()
        method.attach(toy.decoder)
        yield check_sampling(method, toy, sampling, alpha)
