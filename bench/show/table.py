"""The table that a run prints at its end: which numbers it shows, and in which words.

Plain text, at most `bench.show.layout.COLUMNS` characters wide. What a reader must not miss comes first
(``INVALID``, ``BUSY MACHINE``, ``LOSSY``). `docs/reading-the-table.md` explains every line.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from bench.metrics.lossy import Answers
from bench.metrics.roofline import Probe
from bench.metrics.run_figures import (
    Acceptance,
    ArmFigures,
    LossyFigures,
    Resources,
    SearchCost,
    Speedup,
    Subtask,
    Summary,
    number,
    speedup,
)
from bench.metrics.summary import predicted
from bench.records.model import Run, Verdict
from bench.show.alarms import alarm_lines, run_alarms
from bench.show.expert_rows import expert_rows
from bench.show.layout import COLUMNS, byte_size, text_table

Row = tuple[str, ...]

PHASE_WORDS = {"commit": "commit to cache", "host": "rest (host)"}
VERDICT_WORDS = {
    Verdict.EXACT: "exact",
    Verdict.TIE_EXPLAINED: "explained by a numerical tie",
    Verdict.VIOLATION: "violations",
    Verdict.UNCHECKED: "unchecked",
}
_LABEL = 26
"""Least width of the first column, in characters."""
_MOST_SUBTASKS, _MOST_FAILURES, _MOST_POSITIONS, _MOST_IDS = 6, 2, 10, 5


def run_table(summary: Summary) -> str:
    """The table as text, about 25 lines long."""
    resources = [summary.baseline.resources, summary.method.resources]
    rows = [
        *_speed_rows(summary),
        *_subtask_rows(summary.subtasks),
        *(_given_rows(summary.run) if summary.is_cost_only else _acceptance_rows(summary.acceptance)),
        ("decode time", _time_split(summary.time_split)),
        *_search_rows(summary.skipped, summary.search),
        *expert_rows(summary.experts),
        *machine_rows(Probe.of_run(summary.run), summary.baseline.decode_tokens_per_s, resources),
        *_output_rows(summary),
        _control_row(summary),
        *_noise_rows(summary.baseline, summary.method),
        *_left_out_rows(summary),
        *_note_rows(summary.notes),
    ]
    return "\n".join([*_heading(summary), *text_table(rows, least=(_LABEL,))])


def _heading(summary: Summary) -> list[str]:
    run = summary.run
    promise = summary.evidence or run.labels.get("exactness", "exactness not stated")
    lines = [
        f"{run.method} on {run.task}, model {run.model}  (run {run.run_id})",
        f"output {promise}; {summary.speedup.prompts} prompts complete, {summary.repeats} repeats",
    ]
    if summary.is_cost_only:
        lines.append(
            "COST ONLY: acceptance was set by hand or weights are random; only the times mean anything"
        )
    elif summary.is_lossy:
        lines.append(
            "LOSSY: the output is not the model's own; a speedup alone says nothing about its quality"
        )
    return [*lines, *alarm_lines(run_alarms(summary))]


def _speed_rows(summary: Summary) -> list[Row]:
    """Speedups and speeds; the decode column leaves the prefill out, the end-to-end column includes it."""
    ratio, baseline, method = summary.speedup, summary.baseline, summary.method
    level = f"{ratio.decode.level:.0%}" if ratio.decode else "95%"
    geometric = (_times(ratio.decode_geometric), _times(ratio.end_to_end_geometric))
    return [
        ("", "decode", "end to end", ""),
        ("speedup", _times(ratio.decode), _times(ratio.end_to_end), f"[{level} interval]"),
        ("  geometric mean of prompts", *geometric, ""),
        ("  by Spec-Bench's formula", "-", number(ratio.spec_bench, ".3f", "x"), ""),
        *_eager_rows(summary.against_eager),
        *prediction_rows(Probe.of_run(summary.run), predicted(summary)),
        ("baseline tokens/s", *_speeds(baseline), ""),
        ("method tokens/s", *_speeds(method), ""),
    ]


def _eager_rows(against: Speedup | None) -> list[Row]:
    if against is None:
        return []
    return [
        ("  over an eager loop", _times(against.decode), _times(against.end_to_end), "[not the headline]")
    ]


def prediction_rows(probe: Probe | None, ratio: float | None) -> list[Row]:
    """The decode speedup that the measured time of target passes promises, and that time."""
    if probe is None or ratio is None:
        return []
    costs = probe.costs
    rows = costs.passes.rows[-1]
    times = costs.passes.at(rows) / costs.step_s
    passes = f"a target pass: 1 row {1e3 * costs.step_s:.2f} ms, {rows} rows {times:.2f} times that"
    return [("  predicted by pass times", f"{ratio:.3f}x", passes)]


def _subtask_rows(subtasks: Sequence[Subtask]) -> list[Row]:
    if not subtasks:
        return []
    rows: list[Row] = [
        (
            f"  {subtask.name} ({subtask.speedup.prompts} prompts)",
            _times(subtask.speedup.decode),
            _times(subtask.speedup.end_to_end),
            f"acceptance length {number(subtask.acceptance_length)}",
        )
        for subtask in subtasks[:_MOST_SUBTASKS]
    ]
    hidden = len(subtasks) - _MOST_SUBTASKS
    return [("speedup by subtask",), *rows, *([(f"  and {hidden} more",)] if hidden > 0 else [])]


def _acceptance_rows(acceptance: Acceptance) -> list[Row]:
    lengths = (
        f"{number(acceptance.pooled, '.3f')} tokens per target pass; "
        f"mean of answers {number(acceptance.request_mean, '.3f')}; "
        f"without prefill {number(acceptance.steady, '.3f')}"
    )
    shares = (
        f"{number(acceptance.per_drafted, '.1%')} of drafted tokens; "
        f"{number(acceptance.per_verified, '.1%')} of verified rows became output"
    )
    rates = [f"{position.rate:.2f}" for position in acceptance.positions[:_MOST_POSITIONS]]
    more = ["..."] if len(acceptance.positions) > _MOST_POSITIONS else []
    return [
        ("acceptance length", lengths),
        ("  as Spec-Bench counts it", f"{number(acceptance.spec_bench, '.3f')} per step of its list"),
        ("accepted", shares),
        ("accepted by draft position", " ".join([*rates, *more]) or "-"),
    ]


def _given_rows(run: Run) -> list[Row]:
    """The acceptance rates that a cost-only run was configured with; they never stand where measured ones
    do.
    """
    rates = run.identity.get("method", {}).get("acceptance")
    given = " ".join(f"{rate:.2f}" for rate in rates) if isinstance(rates, list) else "by random weights"
    return [("acceptance", f"given: {given}")]


def _time_split(split: Mapping[str, float] | None) -> str:
    shown = {name: share for name, share in (split or {}).items() if share or name != "search"}
    return ", ".join(f"{PHASE_WORDS.get(name, name)} {share:.0%}" for name, share in shown.items()) or "-"


def _search_rows(skipped: float | None, cost: SearchCost | None) -> Iterator[Row]:
    if skipped is not None:
        yield "sub-layers left out", f"{skipped:.1%} while drafting"
    if cost is not None:
        speeds = {"during it": cost.cold, "after it": cost.warm, "overall": cost.total}
        spent = f"{cost.share:.1%} of decode time; {cost.steps} candidates scored"
        state = (
            f"ended after {cost.rounds} rounds" if cost.has_ended else f"still on after {cost.rounds} rounds"
        )
        yield (
            "search, tokens/s",
            ", ".join(f"{name} {number(speed, '.1f')}" for name, speed in speeds.items()),
        )
        yield "search", f"{spent}; {state}"


def machine_rows(
    probe: Probe | None, baseline_tokens_per_s: float | None, arms: Sequence[Resources]
) -> list[Row]:
    """How near the baseline is to the machine's limits, and what memory and energy the arms took.

    Args:
        probe: What the run measured of model and machine; None if it did not.
        baseline_tokens_per_s: Decode speed of the baseline.
        arms: Resources of the baseline and of the method.
    """
    rows: list[Row] = []
    if probe is not None and baseline_tokens_per_s is not None:
        rate = probe.bytes_per_s(baseline_tokens_per_s)
        share = f"{rate / probe.read_bytes_per_s:.0%} of the fastest read here"
        launch = f"launch overhead {probe.costs.dispatch_share:.0%} of a 1-row pass"
        rows.append(("baseline reads memory at", f"{rate / 1e9:.1f} GB/s, {share}; {launch}"))
    if probe is not None:
        weights, token = byte_size(probe.weight_bytes), byte_size(probe.token_bytes)
        rows.append(("memory", f"weights {weights}, keys and values {token} per token"))
    if any(arm.allocated_bytes is not None for arm in arms):
        allocated = _sizes([arm.allocated_bytes for arm in arms])
        reserved = _sizes([arm.reserved_bytes for arm in arms])
        rows.append(("peak memory", f"allocated {allocated}; reserved {reserved} (baseline, method)"))
    if any(arm.joules_per_token is not None for arm in arms):
        energy = ", ".join(number(arm.joules_per_token) for arm in arms)
        rows.append(("energy", f"{energy} J per token (baseline, method)"))
    return rows


def _sizes(counts: Sequence[int | None]) -> str:
    return ", ".join("-" if count is None else byte_size(count) for count in counts)


def _output_rows(summary: Summary) -> list[Row]:
    """Verdicts on the answers; for output that promises nothing, its quality."""
    if summary.lossy is not None:
        return lossy_rows(summary.lossy)
    always = (Verdict.EXACT, Verdict.VIOLATION)
    shown = {verdict: count for verdict, count in summary.verdicts.items() if count or verdict in always}
    counts = ", ".join(f"{count} {VERDICT_WORDS[verdict]}" for verdict, count in shown.items())
    first = summary.first_divergences
    return [("answers", f"{counts}; first difference at token {first[0]}" if first else counts)]


def lossy_rows(figures: LossyFigures) -> list[Row]:
    """What stands in place of verdicts where the output is not the model's own."""
    method, baseline = (_right(answers) for answers in (figures.method_answers, figures.baseline_answers))
    nats = f"method {number(figures.method_nll, '.3f')}, baseline {number(figures.baseline_nll, '.3f')}"
    first = number(figures.agreement, ".1f")
    rows: list[Row] = [
        ("answers right", f"method {method}, baseline {baseline}"),
        ("answers", f"not the model's own; first difference after {first} tokens on average"),
        ("nats/token under target", nats),
    ]
    if figures.group_sizes:
        sizes = ", ".join(f"{size}: {count}" for size, count in figures.group_sizes.items())
        groups = sum(figures.group_sizes.values())
        tokens = sum(size * count for size, count in figures.group_sizes.items())
        entries = number(figures.entries_per_token, ".3f")
        share, limit = number(figures.cache_share, ".3f"), number(figures.bound, ".3f")
        rows += [
            ("groups by size in tokens", f"{sizes}; {tokens / groups:.3f} tokens per pass"),
            ("cache entries", f"{entries} per output token; {share} times plain decoding's, prompt included"),
            ("speedup limit", f"{limit}x if a pass took only the reading of its weights"),
        ]
    return rows


def _right(answers: Answers) -> str:
    return "-" if answers.share is None else f"{answers.share:.1%} of {answers.checkable}"


def _control_row(summary: Summary) -> Row:
    checks = (summary.aa_decode, summary.aa_end_to_end)
    level = next((check.interval.level for check in checks if check), None)
    if summary.is_valid is None or level is None:
        return ("A/A: baseline over itself", "not possible (needs 2 prompts and 2 repeats)")
    times = (_times(check.interval if check else None) for check in checks)
    state = "holds" if summary.is_valid else "FAILS"
    return ("A/A: baseline over itself", *times, f"[{level:.0%} interval] {state}")


def _noise_rows(baseline: ArmFigures, method: ArmFigures) -> list[Row]:
    waits = f"{number(baseline.contention)}, {number(method.contention)}"
    unsteady = f"{number(baseline.unsteady_prompts, 'd')}, {number(method.unsteady_prompts, 'd')}"
    return [
        ("wall time over CPU time", f"{waits} (baseline, method)"),
        ("repeats vary by over 5%", f"on {unsteady} prompts (baseline, method)"),
    ]


def _left_out_rows(summary: Summary) -> list[Row]:
    failures = [*summary.failures.items(), *summary.eager_failures.items()]
    rows: list[Row] = [("FAILED", f"{count} x {reason}") for reason, count in failures[:_MOST_FAILURES]]
    if rest := sum(count for _, count in failures[_MOST_FAILURES:]):
        rows.append(("FAILED", f"{rest} more for other reasons"))
    if ids := summary.excluded:
        more = f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else ""
        rows.append(("excluded prompts", f"{len(ids)}, incomplete: {', '.join(ids[:_MOST_IDS])}{more}"))
    return rows


def _note_rows(notes: Sequence[str]) -> list[Row]:
    lines = textwrap.wrap("; ".join(notes), COLUMNS - _LABEL - 4, max_lines=2, placeholder=" ...")
    return [("note" if place == 0 else "", line) for place, line in enumerate(lines)]


def _speeds(arm: ArmFigures) -> tuple[str, str]:
    return number(arm.decode_tokens_per_s, ".1f"), number(arm.end_to_end_tokens_per_s, ".1f")


_times = partial(speedup, digits=3, unknown=" [-, -]")
