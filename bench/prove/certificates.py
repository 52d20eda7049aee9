"""Certificates: what was proved of a method's output, for which code, and what a table may say of a run.

A certificate is a JSON file in ``results/certificates``. It is about one method with one set of settings, the
code that decodes (`bench.prove.source`), and the places it was checked in: device, and the tier of each
precision. A run may show it only where all of these are its own. Trained weights may differ: they decide what
is drafted, never what is accepted.

New code keeps a certificate if it decodes a fixed battery of prompts into the same ids, rounds and counts
(`bench.prove.battery`); the hashes of all code that did are kept in the certificate.

This module knows nothing of torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench import PACKAGE_ROOT
from bench.records.files import write_text
from bench.records.model import Run, original_settings

log = logging.getLogger(__name__)

FOLDER = "certificates"
SHIPPED = PACKAGE_ROOT / "results" / "published"
"""Where the repository has its own certificates; a package installed without them has none."""
_SHIPPED_ENDING = " as shipped, not here"
KEY_LENGTH = 8
SCHEMA_VERSION = 2

GREEDY, SAMPLING, LOSSY = "greedy-exact", "sampling-exact", "lossy"
"""Values of `methods.core.base.Exactness`, which imports torch."""


PROVES = {GREEDY: ("rules", "greedy"), SAMPLING: ("rules", "greedy", "sampling")}
"""Checks that must have been made and passed for a promise to count as proved."""


class Status(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "not provable here"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one method.

    Args:
        kind: ``rules``, ``premises``, ``greedy`` (float32, token for token), ``greedy half`` or ``sampling``.
        subject: The model, and what else distinguishes this check.
        status: How it ended.
        detail: One line: what was seen, or why nothing could be.
        figures: Counts and statistics.
    """

    kind: str
    subject: str
    status: Status
    detail: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_conclusive(self) -> bool:
        """Whether drafts were accepted: where every draft is rejected, any acceptance rule looks exact."""
        return not self.figures.get("drafted") or bool(self.figures.get("accepted"))


@dataclass(frozen=True, slots=True)
class Code:
    """Code that decoded the battery as the certificate says.

    Args:
        source: See `bench.prove.source.source_hash`.
        commit: Of the repository, None where it is not known.
        created: When it was proved, or when the certificate was carried over to it, ISO 8601.
    """

    source: str
    commit: str | None
    created: str


def tier_words(tier: str, draft_head: str | None) -> str:
    """A tier as certificates name it; None is a head that drafts with its weights as stored."""
    return f"{tier} (draft head in {draft_head})" if draft_head else tier


@dataclass(frozen=True, slots=True)
class Place:
    """Where passes run: ``cpu`` or ``cuda``, the tier as `tier_words` names it, the precision."""

    device: str
    tier: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a proof came to.

    Args:
        method: Name of its yaml file.
        target: Dotted path of its constructor.
        params: Its settings.
        device: ``cpu`` or ``cuda``.
        tiers: The tier that was checked, by precision; see `tier_words`.
        declared: What the method promises, ``greedy`` and ``sampling``.
        checks: In the order they were made.
        controls: By broken variant, the kind of check that caught it; None if none did.
        transcript: What the battery decoded, by name: hashes of ids, rounds and counts.
        code: Code with this transcript, the one that was proved first.
        settings: Size of the proof.
        versions: Of Python and the packages that compute, and the device's name.
    """

    method: str
    target: str
    params: Mapping[str, Any]
    device: str
    tiers: Mapping[str, str]
    declared: Mapping[str, str]
    checks: tuple[Check, ...]
    controls: Mapping[str, str | None]
    transcript: Mapping[str, str]
    code: tuple[Code, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    schema_version: int = SCHEMA_VERSION

    def proves(self, promise: str) -> bool:
        """Whether the checks support this promise: made, conclusive and passed; no control escaped."""
        if promise not in PROVES or not self.are_controls_caught:
            return False
        passed = {
            check.kind for check in self.checks if check.status is Status.PASSED and check.is_conclusive
        }
        return not self.failures and passed.issuperset(PROVES[promise])

    @property
    def failures(self) -> tuple[Check, ...]:
        """Checks that failed."""
        return tuple(check for check in self.checks if check.status is Status.FAILED)

    @property
    def are_controls_caught(self) -> bool:
        """Whether every variant that is broken on purpose was caught."""
        return bool(self.controls) and all(self.controls.values())

    @property
    def verdict(self) -> str:
        """``FAILED``, or for greedy and sampled output ``proved``, ``named lossy``, ``not provable here``."""
        if self.failures:
            return "FAILED"
        states = {name: self._state(promise) for name, promise in self.declared.items()}
        if len(set(states.values())) > 1:
            return ", ".join(f"{name} {state}" for name, state in states.items())
        return next(iter(states.values()), Status.SKIPPED.value)

    @property
    def key(self) -> str:
        """What distinguishes it from other certificates of the method: settings, places and code."""
        parts = [_without_weights(self.params), self.device, dict(self.tiers), self.code[-1].source]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

    def covers(self, place: Place) -> bool:
        """Whether it was made on this device and, for this precision, on this tier."""
        return self.device == place.device and self.tiers.get(place.dtype) == place.tier

    def has_settings(self, params: Mapping[str, Any]) -> bool:
        """Whether it is about these settings; weights are left aside."""
        return bool(_without_weights(self.params) == _without_weights(params))

    def is_about(self, source: str) -> bool:
        """Whether code of this hash was proved, or decodes as the proved code does."""
        return any(code.source == source for code in self.code)

    def carried(self, code: Code) -> Certificate:
        """The same certificate for new code of the same transcript."""
        return replace(self, code=(*self.code, code))

    def _state(self, promise: str) -> str:
        if promise == LOSSY:
            return "named lossy"
        return "proved" if self.proves(promise) else Status.SKIPPED.value


def save(certificate: Certificate, results: Path) -> Path:
    """Write a certificate into `results`; the file appears whole or not at all."""
    path = results / FOLDER / f"{certificate.method}-{certificate.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(certificate), indent=2) + "\n")
    return path


def certificates_of(method: str, results: Path) -> Iterator[tuple[Path, Certificate]]:
    """All certificates of a method in `results`, with their files; those of older schemas are passed over."""
    for path in sorted((results / FOLDER).glob(f"{method}-*.json")):
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields.get("schema_version") == SCHEMA_VERSION and fields["method"] == method:
                yield path, _parsed(fields)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.warning("%s is no certificate (%s), so it proves nothing here; prove again", path, error)


def badge_of(run: Run, results: Path) -> str:
    """What a table may say of the output of a measured run.

    A proof on another machine is evidence, not proof for this one: a shipped certificate is named as such.
    """
    promise = str(run.labels.get("exactness", "exactness not stated"))
    if promise not in PROVES:
        return promise
    return f"{promise}: {_standing(run, promise, results)}"


def is_proved_here(badge: str | None) -> bool:
    """Whether a badge stands for a proof in the same results folder, be it carried over from earlier code."""
    return badge is not None and ": proved" in badge and _SHIPPED_ENDING not in badge


def _standing(run: Run, promise: str, results: Path) -> str:
    sources = {
        attempt["source"] for attempt in run.attempts if "source" in attempt
    }  # of starts that measured
    if len(sources) != 1:  # not on record, or the code changed between two of them
        return "declared, not proved"
    source = sources.pop()
    for folder, ending in ((results, ""), (SHIPPED, _SHIPPED_ENDING)):
        known = [entry for _, entry in certificates_of(run.method, folder) if entry.is_about(source)]
        exact = [entry for entry in known if _fits(entry, run)]
        if exact:
            return _verdict_of(exact[-1], promise, source, ending)
        if known:
            return f"declared, proved only {_places(known)}"
    return "declared, not proved"


def _fits(certificate: Certificate, run: Run) -> bool:
    has_own_target = "target" in certificate.params  # a setting of that name hides the constructor's path
    settings = run.identity.get("method", {}).items()
    params = {key: value for key, value in settings if key != "target" or has_own_target}
    return certificate.has_settings(params) and certificate.covers(_place_of(run))


def _place_of(run: Run) -> Place:
    attempt = run.attempts[-1]
    device, tier = "cuda" if attempt.get("gpu") else "cpu", str(run.labels.get("tier"))
    head = run.identity.get("runtime", {}).get("draft_head")
    return Place(device, tier_words(tier, head), str(attempt.get("dtype")))


def _verdict_of(certificate: Certificate, promise: str, source: str, ending: str) -> str:
    if certificate.failures:
        return "declared, REFUTED by its certificate"
    if not certificate.proves(promise):
        return "declared, not proved"
    first = certificate.code[0]
    if first.source == source:
        return f"proved{ending}"
    return f"proved{ending} at {(first.commit or first.source)[:KEY_LENGTH]}, with unchanged behaviour"


def _places(certificates: list[Certificate]) -> str:
    """Where, or with which settings, certificates of the same code were made."""
    places = {
        f"with {tier} passes in {dtype} on {certificate.device}"
        for certificate in certificates
        for dtype, tier in certificate.tiers.items()
    }
    return f"for other settings, or {' and '.join(sorted(places))}"


def _without_weights(params: Mapping[str, Any]) -> Any:  # noqa: ANN401 - plain JSON
    kept = {key: value for key, value in original_settings(params).items() if key != "weights"}
    return json.loads(json.dumps(kept))  # tuples become lists, as they are once stored


def _parsed(fields: dict[str, Any]) -> Certificate:
    checks = tuple(Check(**{**check, "status": Status(check["status"])}) for check in fields["checks"])
    code = tuple(Code(**entry) for entry in fields["code"])
    return Certificate(**{**fields, "checks": checks, "code": code})
