"""A proof as text: the controls, a short certificate per method, one row per method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.prove.certificates import Certificate, Check, Status
from bench.prove.control_run import Outcome
from bench.show.layout import text_table

_HEADER = (
    ("", "rounds", "exact", "exact in bf16", "smallest", "distance", "controls", ""),
    ("method", "watched", "in fp32", "(ties, wrong)", "p value", "(by chance)", "caught", "verdict"),
)
_WIDEST = 120
"""Characters of a line of the table; the longest verdict still fits."""
_COUNTS = ("exact", "answers", "accepted", "drafted", "rounds")


def certificate_lines(certificate: Certificate, path: str) -> str:
    """One method's certificate."""
    declared = ", ".join(dict.fromkeys(certificate.declared.values())) or "nothing: it fits no model here"
    passes = ", ".join(f"{tier} in {dtype}" for dtype, tier in certificate.tiers.items())
    rows = [("  promises", declared), ("  passes", f"{passes}, on {certificate.device}")]
    rows += [(f"  {kind}", finding) for kind, finding in _check_lines(certificate.checks)]
    title = f"{certificate.method}: {certificate.verdict}"
    return "\n".join([title, *text_table(rows), f"  certificate  {path}"])


def control_lines(outcomes: Sequence[Outcome]) -> str:
    """What caught each broken variant."""
    rows: list[tuple[str, ...]] = []
    for outcome in outcomes:
        state = "caught" if outcome.caught else "passes"
        state = state if outcome.is_as_expected else f"ESCAPED ({state})"
        by = f" by {outcome.caught.kind}" if outcome.caught else ""
        rows.append((f"  {outcome.control.name}", f"{state}{by}"))
        if outcome.caught:
            rows.append((f"    {outcome.caught.subject}: {outcome.caught.detail}",))
    title = "controls: methods broken on purpose must be caught, honest ones must pass"
    return "\n".join([title, *text_table(rows)])


def certificate_table(certificates: Sequence[Certificate]) -> str:
    """One row per method."""
    return "\n".join(text_table([*_HEADER, *map(_row, certificates)], least=(14,), most=_WIDEST))


def _row(certificate: Certificate) -> tuple[str, ...]:
    caught = Counter(bool(check) for check in certificate.controls.values())
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
    checks = _with_figures(certificate, "premises")
    return str(sum(check.figures["rounds"] for check in checks)) if checks else "-"


def _exact(certificate: Certificate) -> str:
    checks = _with_figures(certificate, "greedy")
    if not checks:
        return "-"
    exact, answers = (sum(check.figures[name] for check in checks) for name in ("exact", "answers"))
    return f"{exact}/{answers}"


def _half(certificate: Certificate) -> str:
    checks = _with_figures(certificate, "greedy half")
    if not checks:
        return "-"
    figures = checks[0].figures
    return f"{figures['exact']} ({figures['ties']}, {figures['violations']})"


def _sampling(certificate: Certificate) -> tuple[str, str]:
    """The smallest p value, and the largest distance in total variation beside that of chance alone."""
    checks = _with_figures(certificate, "sampling")
    if not checks:
        return "-", "-"
    worst = max(checks, key=lambda check: check.figures["distance"] - check.figures["noise"]).figures
    least = min(check.figures["p_value"] for check in checks)
    return f"{least:.2g}", f"{worst['distance']:.3f} ({worst['noise']:.3f})"


def _with_figures(certificate: Certificate, kind: str) -> list[Check]:
    return [check for check in certificate.checks if check.kind == kind and check.figures]


def _check_lines(checks: Sequence[Check]) -> Iterator[tuple[str, str]]:
    """Kind and finding of every check; checks that passed on several random models share a line."""
    passed = [check for check in checks if check.status is Status.PASSED and check.figures]
    watched = [check for check in passed if check.kind == "premises"]
    greedy = [check for check in passed if check.kind == "greedy" and check.subject.startswith("random ")]
    for check in checks:
        if check not in watched and check not in greedy:
            yield check.kind, f"{check.subject}: {_finding(check)}"
        elif check in watched[:1]:
            rounds, rows = (sum(other.figures[name] for other in watched) for name in ("rounds", "rows"))
            yield "premises", f"{len(watched)} random models: hold in {rounds} rounds, {rows} rows of logits"
        elif check in greedy[:1]:
            total = {name: sum(other.figures[name] for other in greedy) for name in _COUNTS}
            yield check.kind, f"{len(greedy)} random models: {_counted(total)}"


def _finding(check: Check) -> str:
    if check.status is not Status.PASSED:
        return f"{check.status.upper()}, {check.detail}"
    return check.detail if check.kind in ("sampling", "rules") else _counted(check.figures)


def _counted(figures: Mapping[str, Any]) -> str:
    return (
        f"{figures['exact']} of {figures['answers']} exact, {figures['accepted']} of {figures['drafted']} "
        f"drafted tokens accepted in {figures['rounds']} rounds"
    )
