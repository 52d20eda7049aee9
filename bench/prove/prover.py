"""Makes certificates: the checks that a method must pass, and where each of them is made.

A method is checked where it fits: with its shipped modules on the configured model, and with random modules
on random models of several families and on a model small enough to enumerate its answers. What it refuses is
noted as not provable there, and proves nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

from bench.compose.components import Component
from bench.errors import UserError
from bench.measure.environment import environment
from bench.prove.battery import transcript
from bench.prove.certificates import LOSSY, Certificate, Check, Code, Status
from bench.prove.config import ProveConfig
from bench.prove.greedy import check_exact, check_verdicts
from bench.prove.models import DTYPES, Models, Precision
from bench.prove.premises import check_premises
from bench.prove.rules import check_rules
from bench.prove.sampling import SETTINGS, Toy, check_sampling, words_of
from bench.prove.source import source_hash
from bench.prove.subject import attach_shipped
from bench.prove.targets import FAMILIES, Target
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import Exactness, Method

log = logging.getLogger(__name__)

Place = TypeVar("Place")


@dataclass(frozen=True, slots=True)
class Step:
    """One check to be made.

    Args:
        kind: See `bench.prove.certificates.Check`.
        place: Family of a random model, number of a sampler's setting, or "" for the configured model.
    """

    kind: str
    place: str = ""


class Prover:
    """Makes the checks of methods, one at a time.

    Args:
        config: Sizes of the proof.
        models: On what.
    """

    def __init__(self, config: ProveConfig, models: Models) -> None:
        self._config, self._models = config, models
        self.device, self.tiers = models.device.type, models.tiers

    def declared(self, component: Component) -> dict[str, str]:
        """What the method promises, asked once it is attached to some model; empty if it refuses all.

        Raises:
            UserError: If its constructor cannot be imported, or refuses its settings.
        """
        component.build()
        for attach in (self._shipped, self._on_random_llama):
            try:
                method, _ = attach("fp32", component)
            except UserError:
                continue
            device = self._models.device
            return {
                "greedy": _promise(method, Sampler(Sampling(), device, 0), Exactness.GREEDY_EXACT),
                "sampling": _promise(method, Sampler(SETTINGS[0], device, 0), Exactness.SAMPLING_EXACT),
            }
        return {}

    def steps(self, declared: dict[str, str]) -> list[Step]:
        """The checks that these promises ask for, the quick ones that name a round first."""
        greedy, sampling = (declared.get(name) != LOSSY for name in ("greedy", "sampling"))
        steps: list[Step] = []
        if greedy or sampling:
            steps.append(Step("rules"))
        if greedy:
            steps += [Step("premises", family) for family in FAMILIES]
            steps += [Step("greedy"), *(Step("greedy", family) for family in FAMILIES), Step("greedy half")]
        if sampling:
            steps += [Step("sampling", str(index)) for index in range(len(SETTINGS))]
        return steps

    def check(self, component: Component, step: Step, declared: dict[str, str]) -> Check:
        """Make one check; a method that breaks down fails it."""
        if step.kind == "rules":
            return check_rules()
        if step.kind == "sampling":
            return self._sampling(component, SETTINGS[int(step.place)])
        subject = f"random {step.place}" if step.place else self._models.name
        if step.kind == "premises":
            samplings = (Sampling(), SETTINGS[0]) if declared.get("sampling") != LOSSY else (Sampling(),)

            def check(method: Method, target: Target) -> Check:
                return check_premises(method, target, samplings, self._config.seed)
        else:
            check = check_verdicts if step.kind == "greedy half" else check_exact
        return _guarded(step.kind, subject, check, lambda: self._attached(component, step))

    def transcript(self, component: Component) -> dict[str, str]:
        """See `bench.prove.battery`; empty if the method breaks down."""
        try:
            return transcript(component, self._models, self._config.seed)
        except Exception:
            log.warning("the battery of %s broke down", component.name, exc_info=True)
            return {}

    def certificate(
        self, component: Component, declared: dict[str, str], checks: Sequence[Check], hashes: dict[str, str]
    ) -> Certificate:
        """All that was found; nothing is said of controls yet."""
        models, config, block = self._models, self._config, self._environment
        sizes = ("prompts", "max_new_tokens", "draws", "tokens", "alpha", "seed")
        return Certificate(
            method=component.name,
            target=component.target,
            params=dict(component.params),
            device=self.device,
            tiers=self.tiers,
            declared=declared,
            checks=tuple(checks),
            controls={},
            transcript=hashes,
            code=(self.code(component),),
            settings={"model": models.name, **{name: getattr(config, name) for name in sizes}},
            versions={**block["versions"], "device": block["device"]},
        )

    def code(self, component: Component) -> Code:
        """The code that decodes here and now."""
        source = source_hash(component.target, self._models.tier("fp32"))
        return Code(
            source, self._environment["git"]["commit"], datetime.now(UTC).isoformat(timespec="seconds")
        )

    @cached_property
    def _environment(self) -> dict[str, Any]:
        """Facts of the machine and the repository, which do not change from method to method."""
        return environment(self._models.device, DTYPES["fp32"])

    def _attached(self, component: Component, step: Step) -> tuple[Method, Target]:
        precision: Precision = "bf16" if step.kind == "greedy half" else "fp32"
        if step.place:
            return self._models.fitted(component, step.place, precision)
        if step.kind == "greedy half":  # where the shipped modules do not fit, a random model has to do
            try:
                return self._shipped(precision, component)
            except UserError:
                return self._on_random_llama(precision, component)
        return self._shipped(precision, component)

    def _sampling(self, component: Component, sampling: Sampling) -> Check:
        """On the smallest enumerated model that the method fits."""

        def check(method: Method, toy: Toy) -> Check:
            return check_sampling(method, toy, sampling, self._config.alpha)

        return _guarded("sampling", words_of(sampling), check, lambda: self._models.enumerated(component))

    def _shipped(self, precision: Precision, component: Component) -> tuple[Method, Target]:
        target = self._models.configured(precision)
        return attach_shipped(component, target.decoder), target

    def _on_random_llama(self, precision: Precision, component: Component) -> tuple[Method, Target]:
        return self._models.fitted(component, "llama", precision)


def _guarded(
    kind: str,
    subject: str,
    check: Callable[[Method, Place], Check],
    attach: Callable[[], tuple[Method, Place]],
) -> Check:
    """A check, or why it could not be made; a method that breaks down fails it."""
    try:
        method, place = attach()
    except UserError as refusal:
        return Check(kind, subject, Status.SKIPPED, refusal.what)
    try:
        return check(method, place)
    except Exception as error:
        log.warning("%s on %s broke down", kind, subject, exc_info=True)
        return Check(kind, subject, Status.FAILED, f"{type(error).__name__}: {error}")


def _promise(method: Method, sampler: Sampler, needed: Exactness) -> str:
    """The promise under a sampler; one that does not cover this sampler promises nothing."""
    declared = method.exactness(sampler)
    return declared.value if declared is needed else Exactness.LOSSY.value
