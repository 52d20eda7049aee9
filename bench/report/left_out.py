"""What drafting with a part of the model left out, and what choosing that part cost: a table of the board.

It has a row for every method whose records count the sub-layers that drafts left out (CLaSp, ConfLayers,
KnapSpec, SWIFT, Draft & Verify) or name the layer after which each draft left the model (DEL).
"""

from __future__ import annotations

from bench.metrics.roofline import Probe
from bench.metrics.run_figures import Summary, number
from bench.records.model import Arm
from bench.records.rounds import Rounds
from bench.report.board import Section
from bench.report.entries import Entry
from bench.report.tables import Table

HEADER = (
    *("method", "left out while drafting", "drafted per round", "accepted of drafted"),
    *("acceptance length", "time drafting", "time choosing", "choices"),
)
TITLE = "Drafting with a part of the model: how much of it was left out, and what choosing that part cost"


def left_out_tables(section: Section) -> list[Table]:
    """One method a row, the largest share left out first; none where no method leaves anything out."""
    shares = {
        label: share for label, entry in section.labelled.items() if (share := _left_out(entry)) is not None
    }
    order = sorted(shares, key=lambda label: -shares[label])
    rows = tuple(_row(label, shares[label], section.labelled[label]) for label in order)
    return [Table(TITLE, HEADER, rows, "left_out")] if rows else []


def _left_out(entry: Entry) -> float | None:
    """Share of the model that drafts left out, pooled over rounds; None where the records do not say."""
    summary = entry.summary
    if summary.skipped is not None:
        return summary.skipped
    rounds = _rounds(entry)
    has_layer = rounds.exit_layer >= 0
    probe = Probe.of_run(summary.run)
    if probe is None or not has_layer.any():
        return None
    return 1 - float(rounds.exit_layer[has_layer].mean()) / probe.costs.depth


def _rounds(entry: Entry) -> Rounds:
    samples = (sample for sample in entry.samples if sample.arm is Arm.METHOD and sample.error is None)
    return Rounds.joined(sample.rounds for sample in samples)


def _row(label: str, share: float, entry: Entry) -> tuple[str, ...]:
    summary, rounds = entry.summary, _rounds(entry)
    drafted = float(rounds.drafted.mean()) if len(rounds) else None
    return (
        *(label, f"{share:.0%}", number(drafted), _percent(summary.acceptance.per_drafted)),
        *(number(summary.acceptance.pooled), _phase(summary, "draft"), _phase(summary, "search")),
        f"{summary.search.steps:,}" if summary.search else "-",
    )


def _phase(summary: Summary, name: str) -> str:
    return _percent((summary.time_split or {}).get(name))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
