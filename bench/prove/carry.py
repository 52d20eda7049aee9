"""A certificate for new code: kept where the battery is decoded as before, else the differences are named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.compose.components import Component
from bench.prove.battery import differences
from bench.prove.certificates import Certificate, certificates_of, save
from bench.prove.prover import Prover

SHOWN = 3
"""Differences that are named."""
_FIX = "  fix: prove again, by the same command without carry=true"


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of a method's certificate.

    Args:
        text: One or two lines to print.
        is_kept: Whether this code has a certificate now.
    """

    text: str
    is_kept: bool


def carry(component: Component, prover: Prover, transcript: dict[str, str], results: Path) -> Carried:
    """Keep the certificate that was made with these settings, if the transcript is the same.

    Args:
        component: The method.
        prover: Knows the code and the places of this process.
        transcript: What this code decodes the battery into.
        results: Folder with the certificates.
    """
    name, code = component.name, prover.code(component)
    entries = [
        (path, entry)
        for path, entry in certificates_of(name, results)
        if entry.has_settings(component.params)
        and entry.device == prover.device
        and entry.tiers == prover.tiers
        and not entry.failures
    ]
    if any(entry.is_about(code.source) for _, entry in entries):
        return Carried(f"{name}: nothing to do, this code ({code.source}) has a certificate", True)
    if not entries:
        return Carried(f"{name}: no certificate to carry over\n{_FIX}", False)
    path, newest = max(entries, key=lambda pair: pair[1].code[-1].created)
    changed = differences(newest.transcript, transcript)
    if changed or not transcript:
        return Carried(_refusal(name, newest, changed), False)
    kept = save(newest.carried(code), results)
    path.unlink()  # the new file holds all of it
    return Carried(f"{name}: carried over from {newest.code[-1].source} to {code.source}, {kept}", True)


def _refusal(name: str, certificate: Certificate, changed: list[str]) -> str:
    shown = "; ".join(changed[:SHOWN]) + ("; ..." if len(changed) > SHOWN else "")
    decodes = f"{len(changed)} of {len(certificate.transcript)} decodes differ"
    return f"{name}: LOST, {decodes} ({shown})\n{_FIX}"
