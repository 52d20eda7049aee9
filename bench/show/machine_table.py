"""Rows of the final table about the machine: predicted speedup, bandwidth, memory, energy.

A row is a label and its cells; `bench.show.table` lays them out.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.metrics.resources import Resources
from bench.metrics.roofline import Probe

Row = tuple[str, ...]


def prediction_rows(probe: Probe | None, predicted: float | None) -> list[Row]:
    """What passes that cost as much as they do alone would have gained."""
    if probe is None or predicted is None:
        return []
    costs = probe.costs
    rows = costs.passes.rows[-1]
    ratio = costs.passes.at(rows) / costs.step_s
    return [
        (
            "  predicted",
            f"{predicted:.3f}x",
            f"t(1) {1e3 * costs.step_s:.2f} ms, t({rows}) {ratio:.2f} times that",
        )
    ]


def machine_rows(
    probe: Probe | None, baseline_tokens_per_s: float | None, arms: Sequence[Resources]
) -> list[Row]:
    """How near the baseline is to the machine's limits, and what memory and energy it all took.

    Args:
        probe: What the run probed; None if it did not.
        baseline_tokens_per_s: Decode speed of the baseline.
        arms: Resources of the baseline and of the method.
    """
    rows: list[Row] = []
    if probe is not None and baseline_tokens_per_s is not None:
        rate = probe.bytes_per_s(baseline_tokens_per_s)
        share = f"{rate / probe.read_bytes_per_s:.0%} of what this machine can"
        dispatch = f"dispatch {probe.costs.dispatch_share:.0%} of t(1)"
        rows.append(("baseline reads", f"{rate / 1e9:.1f} GB/s, {share}; {dispatch}"))
    if probe is not None:
        sizes = f"weights {byte_size(probe.weight_bytes)}, cache {byte_size(probe.token_bytes)} per token"
        rows.append(("memory", sizes))
    if any(one.allocated_bytes is not None for one in arms):
        peaks = (_pair([one.allocated_bytes for one in arms]), _pair([one.reserved_bytes for one in arms]))
        rows.append(("peak memory", f"allocated {peaks[0]}; reserved {peaks[1]} (baseline, method)"))
    if any(one.joules_per_token is not None for one in arms):
        energy = ", ".join("-" if one is None else f"{one:.2f}" for one in (a.joules_per_token for a in arms))
        rows.append(("energy", f"{energy} J per token (baseline, method)"))
    return rows


def byte_size(count: int) -> str:
    """Bytes with a decimal unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _pair(sizes: Sequence[int | None]) -> str:
    return ", ".join("-" if one is None else byte_size(one) for one in sizes)
