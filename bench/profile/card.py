"""A profile as text: first what follows from bytes and bandwidth, then what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.metrics.run_figures import number
from bench.profile.records import Level, MethodCost, Profile
from bench.show.layout import byte_size, text_table

SHOWN_ROWS = (1, 2, 3, 4, 6, 8, 16, 32, 64)
"""Row counts of a target pass whose times are shown."""
METHOD_HEADER = ("method", "tokens/round", "draft ms", "verify ms", "rest ms", "predicted", "measured")
_LABEL = 24
"""Least width of the first column, in characters."""


def static_card(profile: Profile, contexts: Iterable[int]) -> str:
    """What size and bandwidth say of this model on this machine, at these contexts, before anything is
    decoded.
    """
    bandwidth, weights = profile.bandwidth, byte_size(profile.weight_bytes)
    reads = (
        f"{bandwidth.memory / 1e9:.1f} GB/s from a buffer of {byte_size(bandwidth.buffer_bytes)}, "
        f"{bandwidth.resident / 1e9:.1f} GB/s from one of the weights' size"
    )
    rows = [
        ("weights", f"{weights} read per pass; {profile.parameters / 1e6:.1f} M parameters"),
        (
            "keys and values",
            f"{byte_size(profile.token_bytes)} per token; cache of {byte_size(profile.cache_bytes)}",
        ),
        ("memory reads at", reads),
        *(
            (
                "roofline",
                f"at most {profile.ceiling(context):.0f} tokens/s with {context} tokens in the cache",
            )
            for context in sorted(contexts)
        ),
    ]
    title = f"{profile.model} on {profile.device}, {profile.environment['dtype']}"
    return "\n".join([title, *text_table(rows, least=(_LABEL,))])


def measured_card(profile: Profile) -> str:
    """What target passes, ranges of layers and rounds of methods took."""
    lines = [line for level in profile.levels for line in ("", *_level_lines(profile, level))]
    if profile.methods:
        rows = [METHOD_HEADER, *map(method_row, profile.methods)]
        lines += [
            "",
            "mean round of each method, and its decode speedup:",
            *text_table(rows, least=(_LABEL,)),
        ]
    skipped = [(f"not ready: {name}", reason) for name, reason in (profile.skipped or {}).items()]
    return "\n".join([*lines, *text_table(skipped, least=(_LABEL,))])


def method_row(cost: MethodCost) -> tuple[str, ...]:
    """The cells of `METHOD_HEADER`; an acceptance that was given is never shown as a number."""
    rest_s = cost.decode_s - cost.draft_s - cost.verify_s
    parts_s = (cost.draft_s, cost.verify_s, rest_s)
    tokens = "given" if cost.is_cost_only else number(cost.tokens / cost.rounds)
    times = (number(1e3 * seconds / cost.rounds) for seconds in parts_s)
    return cost.name, tokens, *times, number(cost.predicted, unit="x"), number(cost.measured, unit="x")


def _level_lines(profile: Profile, level: Level) -> list[str]:
    costs = level.costs
    shown = [rows for rows in SHOWN_ROWS if rows <= costs.passes.rows[-1]]
    layer_s = (*level.ranges_s.values(), costs.head.at(1))
    summary = (
        f"{1 / costs.step_s:.0f} tokens/s, {profile.achieved(costs):.0%} of the roofline; "
        f"launch overhead {costs.dispatch_share:.0%} of a 1-row pass"
    )
    rows: list[Sequence[str]] = [
        (f"{costs.context} tokens in the cache", summary),
        ("rows of a target pass", *map(str, shown)),
        ("its time, ms", *(f"{1e3 * costs.passes.at(rows):.2f}" for rows in shown)),
        ("times that of 1 row", *(f"{costs.passes.at(rows) / costs.step_s:.2f}" for rows in shown)),
        ("1 row, first layers only", *map(str, level.ranges_s), "head alone"),
        ("its time, ms", *(f"{1e3 * seconds:.3f}" for seconds in layer_s)),
    ]
    if level.peak_allocated_bytes is not None and level.peak_reserved_bytes is not None:
        allocated, reserved = byte_size(level.peak_allocated_bytes), byte_size(level.peak_reserved_bytes)
        rows.append(("peak memory", f"{allocated} allocated, {reserved} reserved"))
    return text_table(rows, least=(_LABEL,))
