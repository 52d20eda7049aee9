"""Makes certificates: the checks that a method must pass, and where each of them is made.

A method is checked where it fits: with its shipped modules on the configured model, and with random modules
on random models of several families and on a model small enough to enumerate its answers. What it refuses is
noted as not provable there, and proves nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from bench.compose.components import Component
from bench.errors import UserError
from bench.measure.environment import environment
from bench.prove.certificates import LOSSY, Certificate, Check, Status, source_hash
from bench.prove.config import ProveConfig
from bench.prove.greedy import check_exact, check_verdicts
from bench.prove.models import DTYPES, Models, Precision
from bench.prove.sampling import SETTINGS, check_sampling, told
from bench.prove.subject import attach_shipped, first_fit
from bench.prove.targets import FAMILIES, Target
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import Exactness, Method

log = logging.getLogger(__name__)

Place = TypeVar("Place")


class Prover:
    """Checks methods one after the other.

    Args:
        config: Sizes of the proof.
        models: On what.
        alpha: Level of a single sampling test.
    """

    def __init__(self, config: ProveConfig, models: Models, alpha: float) -> None:
        self._config, self._models, self._alpha = config, models, alpha
        block = environment(models.device, DTYPES["fp32"])
        self._versions = {**block["versions"], "device": block["device"], "commit": block["git"]["commit"]}

    def certify(self, component: Component) -> Certificate:
        """Check one method; the certificate says nothing of controls yet.

        Raises:
            UserError: If its constructor cannot be imported, or refuses its settings.
        """
        component.build()
        declared, checks = self._declared(component), list[Check]()
        if declared.get("greedy") != LOSSY:
            checks += self._greedy(component)
        if declared.get("sampling") != LOSSY:
            checks += [self._sampling(component, one) for one in SETTINGS]
        config = self._config
        return Certificate(
            method=component.name,
            target=component.target,
            params=dict(component.params),
            source_hash=source_hash(component.target),
            declared=declared,
            checks=tuple(checks),
            controls={},
            settings={
                "model": self._models.name,
                "prompts": config.prompts,
                "max_new_tokens": config.max_new_tokens,
                "draws": config.draws,
                "tokens": config.tokens,
                "alpha_per_test": self._alpha,
                "seed": config.seed,
            },
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=self._versions,
        )

    def _declared(self, component: Component) -> dict[str, str]:
        """What the method promises, asked once it is attached to some model; empty if it refuses all."""
        for attach in (self._shipped, partial(self._random, "llama")):
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

    def _greedy(self, component: Component) -> list[Check]:
        """Strict in fp32 wherever the method fits; verdicts in bf16 on the model it was made for."""
        name = self._models.name
        strict = _guarded("greedy", name, check_exact, lambda: self._shipped("fp32", component))
        checks = [strict]
        for family in FAMILIES:
            attach = partial(self._random, family, "fp32", component)
            checks.append(_guarded("greedy", f"random {family}", check_exact, attach))
        half = self._shipped if strict.status is not Status.SKIPPED else partial(self._random, "llama")
        checks.append(_guarded("greedy half", name, check_verdicts, lambda: half("bf16", component)))
        return checks

    def _sampling(self, component: Component, sampling: Sampling) -> Check:
        """On the smallest toy that the method fits."""
        models, seed = self._models, self._config.seed

        def attach() -> tuple[Method, int]:
            depth, method = first_fit(component, lambda depth: models.toy(depth).decoder, seed)
            return method, depth

        def check(method: Method, depth: int) -> Check:
            return check_sampling(method, models.toy(depth), sampling, self._alpha)

        return _guarded("sampling", told(sampling), check, attach)

    def _shipped(self, precision: Precision, component: Component) -> tuple[Method, Target]:
        target = self._models.configured(precision)
        return attach_shipped(component, target.decoder), target

    def _random(self, family: str, precision: Precision, component: Component) -> tuple[Method, Target]:
        def build(depth: int) -> Target:
            return self._models.random(family, depth, precision)

        depth, method = first_fit(component, lambda depth: build(depth).decoder, self._config.seed)
        return method, build(depth)


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
