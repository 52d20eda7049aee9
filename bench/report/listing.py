"""All runs of a results folder in one table: what was measured, on what, and whether to believe it."""

from __future__ import annotations

from pathlib import Path

from bench.errors import UserError
from bench.records import Verdict
from bench.stats import Interval
from bench.store import load_run, load_samples
from bench.summary import Summary, summarise

HEADER = ("run", "device", "decode speedup", "end to end", "acceptance", "output", "state")


def summaries(results: Path) -> list[Summary]:
    """The summary of every run under ``results/runs``, by run id.

    Raises:
        UserError: If there are no runs, or a record is corrupt.
    """
    folders = sorted(path.parent for path in (results / "runs").glob("*/run.json"))
    if not folders:
        raise UserError(
            f"{results / 'runs'} holds no runs", "measure one first: python -m bench method=kangaroo"
        )
    return [summarise(load_run(folder), load_samples(folder)) for folder in folders]


def markdown(found: list[Summary]) -> str:
    """One row per run as a Markdown table."""
    rows = [HEADER, tuple("---" for _ in HEADER), *(_row(one) for one in found)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(summary: Summary) -> tuple[str, ...]:
    run, speedup = summary.run, summary.speedup
    pooled = summary.acceptance.pooled
    return (
        run.run_id,
        str(run.attempts[-1]["device"]) if run.attempts else "-",
        _times(speedup.decode),
        _times(speedup.end_to_end),
        "given" if summary.is_cost_only else "-" if pooled is None else f"{pooled:.2f}",
        _output(summary),
        _state(summary),
    )


def _times(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.estimate:.2f}x [{interval.low:.2f}, {interval.high:.2f}]"


def _output(summary: Summary) -> str:
    if summary.is_cost_only:
        return "cost only"
    if summary.is_lossy:
        return "lossy"
    counts = {name.value: count for name, count in summary.verdicts.items() if count}
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "-"


def _state(summary: Summary) -> str:
    """Why a run may not be believed, or ``sound``."""
    reasons = []
    if summary.is_valid is False:
        reasons.append("A/A control fails")
    if summary.failures:
        reasons.append(f"{sum(summary.failures.values())} samples failed")
    if summary.verdicts[Verdict.VIOLATION]:
        reasons.append("output violates the target")
    if summary.run.labels.get("partial"):
        reasons.append("partial")
    return "; ".join(reasons) or "sound"
