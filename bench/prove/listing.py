"""A proof as text: the controls, a short certificate per method, one row per method; 100 columns at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.prove.certificates import Certificate, Check, Status
from bench.prove.control_run import Outcome

COLUMNS = 100
_HEADER = (
    "method",
    "rounds",
    "greedy fp32",
    "greedy bf16",
    "chi-square p",
    "TV (chance)",
    "controls",
    "verdict",
)
_COUNTS = ("exact", "answers", "accepted", "drafted", "rounds")
_WIDTHS = (20, 8, 12, 22, 13, 16, 9, 0)


def certificate_lines(certificate: Certificate, path: str) -> str:
    """One method's certificate."""
    declared = ", ".join(dict.fromkeys(certificate.declared.values())) or "nothing: it fits no model here"
    lines = [f"{certificate.method}: {certificate.verdict}", f"  declares      {declared}"]
    lines += [f"  {kind:<13} {text}" for kind, text in _check_lines(certificate.checks)]
    lines.append(f"  certificate   {path}")
    return "\n".join(_fit(line) for line in lines)


def control_lines(outcomes: Sequence[Outcome]) -> str:
    """What caught each broken variant."""
    lines = ["controls: methods broken on purpose must be caught, honest ones must pass"]
    for outcome in outcomes:
        state = f"caught by {outcome.caught.kind}" if outcome.caught else "passes"
        state = state if outcome.is_as_expected else f"ESCAPED ({state})"
        lines.append(f"  {outcome.control.name:<37} {state}")
        if outcome.caught:
            lines.append(f"    {outcome.caught.subject}: {outcome.caught.detail}")
    return "\n".join(_fit(line) for line in lines)


def table(certificates: Sequence[Certificate]) -> str:
    """One row per method."""
    return "\n".join(_cells(row) for row in (_HEADER, *map(_row, certificates)))


def _row(certificate: Certificate) -> tuple[str, ...]:
    caught = Counter(bool(kind) for kind in certificate.controls.values())
    return (
        certificate.method,
        _rounds(certificate),
        _exact(certificate),
        _half(certificate),
        *_sampling(certificate),
        f"{caught[True]}/{caught.total()}",
        certificate.verdict,
    )


def _rounds(certificate: Certificate) -> str:
    watched = _made(certificate, "premises")
    return str(sum(check.figures["rounds"] for check in watched)) if watched else "-"


def _exact(certificate: Certificate) -> str:
    made = _made(certificate, "greedy")
    if not made:
        return "-"
    return (
        f"{sum(check.figures['exact'] for check in made)}/{sum(check.figures['answers'] for check in made)}"
    )


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
    worst = max(made, key=lambda check: check.figures["distance"] - check.figures["noise"]).figures
    least = min(check.figures["p_value"] for check in made)
    return f"{least:.2g}", f"{worst['distance']:.3f} ({worst['noise']:.3f})"


def _made(certificate: Certificate, kind: str) -> list[Check]:
    return [check for check in certificate.checks if check.kind == kind and check.figures]


def _check_lines(checks: Sequence[Check]) -> Iterator[tuple[str, str]]:
    """Kind and findings of every check; checks that passed on several random models share a line."""
    passed = [check for check in checks if check.status is Status.PASSED and check.figures]
    watched = [check for check in passed if check.kind == "premises"]
    greedy = [check for check in passed if check.kind == "greedy" and check.subject.startswith("random ")]
    for check in checks:
        if check not in watched and check not in greedy:
            yield check.kind, f"{check.subject}: {_words(check)}"
        elif check in watched[:1]:
            rounds, rows = (sum(each.figures[name] for each in watched) for name in ("rounds", "rows"))
            yield "premises", f"{len(watched)} random models: hold in {rounds} rounds, {rows} rows of logits"
        elif check in greedy[:1]:
            total = {name: sum(each.figures[name] for each in greedy) for name in _COUNTS}
            yield check.kind, f"{len(greedy)} random models: {_counted(total)}"


def _words(check: Check) -> str:
    if check.status is not Status.PASSED:
        return f"{check.status.upper()}, {check.detail}"
    return check.detail if check.kind in ("sampling", "rules") else _counted(check.figures)


def _counted(figures: Mapping[str, Any]) -> str:
    return (
        f"{figures['exact']} of {figures['answers']} exact, {figures['accepted']} of {figures['drafted']} "
        f"drafted tokens accepted in {figures['rounds']} rounds"
    )


def _cells(row: Sequence[str]) -> str:
    padded = [f"{cell:<{width}}" for cell, width in zip(row, _WIDTHS, strict=True)]
    return " ".join(padded).rstrip()


def _fit(line: str) -> str:
    return line if len(line) <= COLUMNS else f"{line[: COLUMNS - 3]}..."
