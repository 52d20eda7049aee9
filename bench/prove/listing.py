"""A proof as text: the controls, a short certificate per method, one row per method; 100 columns at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.certificates import Certificate, Check, Status
from bench.prove.control_run import Outcome

COLUMNS = 100
_HEADER = ("method", "greedy fp32", "greedy bf16", "chi-square p", "TV (chance)", "controls", "verdict")
_WIDTHS = (24, 12, 22, 13, 16, 9, 0)


def certificate_lines(certificate: Certificate, path: str) -> str:
    """One method's certificate."""
    declared = ", ".join(dict.fromkeys(certificate.declared.values())) or "nothing: it fits no model here"
    lines = [f"{certificate.method}: {certificate.verdict}", f"  declares      {declared}"]
    lines += [f"  {one.kind:<13} {one.subject}: {_told(one)}" for one in certificate.checks]
    lines.append(f"  certificate   {path}")
    return "\n".join(_fit(line) for line in lines)


def control_lines(outcomes: Sequence[Outcome]) -> str:
    """What caught each broken variant."""
    lines = ["controls: methods broken on purpose must be caught, honest ones must pass"]
    for one in outcomes:
        state = "caught" if one.caught else "passes"
        state = state if one.is_as_expected else f"ESCAPED ({state})"
        seen = f" by {one.caught.kind}, {one.caught.subject}: {one.caught.detail}" if one.caught else ""
        lines.append(f"  {one.control.name:<36} {state}{seen}")
    return "\n".join(_fit(line) for line in lines)


def table(certificates: Sequence[Certificate]) -> str:
    """One row per method."""
    return "\n".join(_cells(row) for row in (_HEADER, *map(_row, certificates)))


def _row(certificate: Certificate) -> tuple[str, ...]:
    caught = Counter(bool(one) for one in certificate.controls.values())
    return (
        certificate.method,
        _exact(certificate),
        _half(certificate),
        *_sampling(certificate),
        f"{caught[True]}/{caught.total()}",
        certificate.verdict,
    )


def _exact(certificate: Certificate) -> str:
    made = _made(certificate, "greedy")
    if not made:
        return "-"
    return f"{sum(one.figures['exact'] for one in made)}/{sum(one.figures['answers'] for one in made)}"


def _half(certificate: Certificate) -> str:
    made = _made(certificate, "greedy half")
    if not made:
        return "-"
    figures = made[0].figures
    return f"{figures['exact']} ex, {figures['ties']} tie, {figures['violations']} viol"


def _sampling(certificate: Certificate) -> tuple[str, str]:
    made = _made(certificate, "sampling")
    if not made:
        return "-", "-"
    worst = max(made, key=lambda one: one.figures["distance"] - one.figures["noise"]).figures
    least = min(one.figures["p_value"] for one in made)
    return f"{least:.2g}", f"{worst['distance']:.3f} ({worst['noise']:.3f})"


def _made(certificate: Certificate, kind: str) -> list[Check]:
    return [one for one in certificate.checks if one.kind == kind and one.figures]


def _told(check: Check) -> str:
    if check.kind == "greedy" and check.status is Status.PASSED:
        return f"{check.figures['exact']}/{check.figures['answers']} exact; {check.detail}"
    return check.detail if check.status is Status.PASSED else f"{check.status.upper()}, {check.detail}"


def _cells(row: Sequence[str]) -> str:
    padded = [f"{cell:<{width}}" for cell, width in zip(row, _WIDTHS, strict=True)]
    return " ".join(padded).rstrip()


def _fit(line: str) -> str:
    return line if len(line) <= COLUMNS else f"{line[: COLUMNS - 3]}..."
