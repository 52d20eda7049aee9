"""A profile as text: first what follows from bytes and bandwidth, then what was measured."""

from __future__ import annotations

from collections.abc import Iterable

from bench.profile.records import Level, MethodCost, Profile
from bench.show.machine_table import byte_size

_LABEL, _CELL = 20, 9
SHOWN_ROWS = (1, 2, 3, 4, 6, 8, 16, 32, 64)


def static_card(profile: Profile, contexts: Iterable[int]) -> str:
    """What must be true of this model on this machine, at these contexts, before anything is decoded."""
    bandwidth, weights = profile.bandwidth, byte_size(profile.weight_bytes)
    lines = [
        f"{profile.model} on {profile.device}, {profile.environment['dtype']}",
        _row("weights", f"{weights} per pass; {profile.parameters / 1e6:.1f} M parameters"),
        _row(
            "keys and values",
            f"{byte_size(profile.token_bytes)} per token; {byte_size(profile.cache_bytes)} set aside",
        ),
        _row(
            "read bandwidth",
            f"{bandwidth.memory / 1e9:.1f} GB/s from memory ({byte_size(bandwidth.buffer_bytes)}), "
            f"{bandwidth.resident / 1e9:.1f} GB/s over {weights}",
        ),
    ]
    lines += [
        _row("roofline", f"{profile.ceiling(one):.0f} tokens/s at context {one}") for one in sorted(contexts)
    ]
    return "\n".join(lines)


def measured_rows(profile: Profile) -> str:
    """What passes, layer ranges and methods took."""
    lines = [line for level in profile.levels for line in _level_lines(profile, level)]
    if profile.methods:
        lines += ["", *_method_lines(profile.methods)]
    lines += [_row(f"not ready: {name}", why) for name, why in (profile.skipped or {}).items()]
    return "\n".join(lines)


def _level_lines(profile: Profile, level: Level) -> list[str]:
    costs = level.costs
    shown = [rows for rows in SHOWN_ROWS if rows <= costs.passes.rows[-1]]
    return [
        "",
        _row(
            f"at context {costs.context}",
            f"{1 / costs.step_s:.0f} tokens/s, {profile.achieved(costs):.0%} of the roofline; "
            f"dispatch {costs.dispatch_share:.0%} of a step",
        ),
        _row("rows M", *map(str, shown)),
        _row("t(M), ms", *(f"{1e3 * costs.passes.at(rows):.2f}" for rows in shown)),
        _row("t(M) / t(1)", *(f"{costs.passes.at(rows) / costs.step_s:.2f}" for rows in shown)),
        _row("first layers", *map(str, level.ranges_s), "head"),
        _row("ms, one row", *(f"{1e3 * one:.3f}" for one in (*level.ranges_s.values(), costs.head.at(1)))),
        *_memory_lines(level),
    ]


def _memory_lines(level: Level) -> list[str]:
    allocated, reserved = level.peak_allocated_bytes, level.peak_reserved_bytes
    if allocated is None or reserved is None:
        return []
    return [_row("peak memory", f"{byte_size(allocated)} allocated, {byte_size(reserved)} reserved")]


def _method_lines(methods: Iterable[MethodCost]) -> list[str]:
    names = ("tok/round", "draft ms", "verify ms", "other ms", "predicted", "measured")
    lines = [_row("method, per round", *(f"{name:<10}" for name in names))]
    for one in methods:
        other_s = one.decode_s - one.draft_s - one.verify_s
        tokens = "given" if one.is_cost_only else f"{one.tokens / one.rounds:.2f}"
        cells = (
            tokens,
            *(f"{1e3 * seconds / one.rounds:.2f}" for seconds in (one.draft_s, one.verify_s, other_s)),
            "-" if one.predicted is None else f"{one.predicted:.2f}x",
            f"{one.measured:.2f}x",
        )
        lines.append(_row(one.name, *(f"{cell:<10}" for cell in cells)))
    return lines


def _row(label: str, *cells: str) -> str:
    return f"{label:<{_LABEL}}{' '.join(f'{cell:<{_CELL}}' for cell in cells)}".rstrip()
