"""Holds the checks against methods broken on purpose: what catches each, and that honest ones pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.prove.certificates import Check, Status
from bench.prove.controls import TRIED, Control
from bench.prove.greedy import check_exact
from bench.prove.models import Models
from bench.prove.sampling import SETTINGS, check_sampling
from bench.prove.subject import DEPTHS
from bench.prove.targets import FAMILIES


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


def run_controls(models: Models, alpha: float) -> tuple[Outcome, ...]:
    """Every control through the checks that methods go through, at the same sizes."""
    return tuple(Outcome(one, catch(one, models, alpha)) for one in TRIED)


def caught_by(outcomes: tuple[Outcome, ...]) -> dict[str, str | None]:
    """By broken variant, the kind of check that caught it; a refused honest one counts as an escape."""
    found = {
        one.control.name: one.caught.kind if one.caught else None for one in outcomes if one.control.is_broken
    }
    return found | {one.control.name: None for one in outcomes if not one.is_as_expected}


def catch(control: Control, models: Models, alpha: float) -> Check | None:
    """The first check that a variant fails; None if it passes all."""
    return next((one for one in _checks(control, models, alpha) if one.status is Status.FAILED), None)


def _checks(control: Control, models: Models, alpha: float) -> Iterator[Check]:
    """The checks, those of the control's own kind first."""
    kinds = ("sampling", "greedy") if control.kind == "sampling" else ("greedy", "sampling")
    for kind in kinds:
        yield from _greedy(control, models) if kind == "greedy" else _sampling(control, models, alpha)


def _greedy(control: Control, models: Models) -> Iterator[Check]:
    for family in FAMILIES:
        target = models.random(family, DEPTHS[0], "fp32")
        method = control.build()
        method.attach(target.decoder)
        yield check_exact(method, target)


def _sampling(control: Control, models: Models, alpha: float) -> Iterator[Check]:
    toy = models.toy(DEPTHS[0])
    for sampling in SETTINGS:
        method = control.build()
        method.attach(toy.decoder)
        yield check_sampling(method, toy, sampling, alpha)
