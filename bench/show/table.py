"""The final table of a run in the terminal: which numbers it has, and how they are printed.

Plain text, at most 100 columns. What a reader must not miss comes first (``INVALID``, ``LOSSY``); an
undefined number is ``-``.
"""

import textwrap
from collections.abc import Mapping, Sequence

from bench.metrics.intervals import Interval
from bench.metrics.lossy import lossy_lines
from bench.metrics.run_figures import Acceptance, ArmFigures, Speedup, Subtask, Summary
from bench.records.model import Run, Verdict
from bench.show.machine_table import machine_rows, prediction_rows

COLUMNS = 100
_LABEL, _CELL = 24, 28
_MOST_SUBTASKS, _MOST_FAILURES, _MOST_POSITIONS, _MOST_IDS = 6, 2, 10, 5


def render(summary: Summary) -> str:
    """The table as text, at most 100 columns wide and about 25 lines long."""
    run, baseline = summary.run, summary.baseline
    resources = [arm.resources for arm in (baseline, summary.method)]
    lines = [
        *_heading(summary),
        *_speed_lines(summary),
        *_subtask_lines(summary.subtasks),
        *(_given_lines(run) if summary.is_cost_only else _acceptance_lines(summary.acceptance)),
        _row("decode time", _split(summary.time_split)),
        *_search_lines(summary),
        *(_row(*cells) for cells in machine_rows(summary.probe, baseline.decode_tokens_per_s, resources)),
        *_output_lines(summary),
        _control(summary),
        _row("steadiness", _steadiness(summary)),
        *_left_out(summary),
        *_note_lines(summary.notes),
    ]
    return "\n".join(_fit(line) for line in lines)


def _heading(summary: Summary) -> list[str]:
    run = summary.run
    promise = summary.badge or run.labels.get("exactness", "exactness not stated")
    lines = [
        f"{run.method} on {run.task}, {run.model}  ({run.run_id})",
        f"{promise}; {summary.speedup.prompts} prompts complete, {summary.repeats} repeats",
    ]
    if summary.is_valid is False:
        lines.append("INVALID: the baseline differs from itself (A/A control below); do not use these speeds")
    if summary.is_cost_only:
        lines.append("COST ONLY: the acceptance is given, not earned, and the ids mean nothing")
    elif summary.is_lossy:
        lines.append(
            "LOSSY: the output is not the model's own; a speedup alone says nothing about its quality"
        )
    if not summary.is_lossy and (count := summary.verdicts[Verdict.VIOLATION]):
        lines.append(f"VIOLATION: {count} output(s) neither the baseline's nor explained by a numerical tie")
    return lines


def _speed_lines(summary: Summary) -> list[str]:
    speedup, baseline, method = summary.speedup, summary.baseline, summary.method
    level = f"{speedup.decode.level:.0%}" if speedup.decode else "95%"
    return [
        _row("", "decode", "end to end"),
        _row("speedup", _times(speedup.decode), f"{_times(speedup.end_to_end)}  [{level} interval]"),
        _row(
            "  per-question geomean", _times(speedup.decode_geometric), _times(speedup.end_to_end_geometric)
        ),
        _row("  Spec-Bench's formula", "-", _number(speedup.spec_bench, ".3f", "x")),
        *_eager_lines(summary.against_eager),
        *(_row(*cells) for cells in prediction_rows(summary.probe, summary.predicted)),
        _row("baseline tokens/s", *_speeds(baseline)),
        _row("method tokens/s", *_speeds(method)),
    ]


def _eager_lines(against: Speedup | None) -> list[str]:
    if against is None:
        return []
    whole = f"{_times(against.end_to_end)}  [not the headline]"
    return [_row("  against eager", _times(against.decode), whole)]


def _subtask_lines(subtasks: Sequence[Subtask]) -> list[str]:
    if not subtasks:
        return []
    lines = [
        _row(
            f"  {one.name} ({one.speedup.prompts})",
            _times(one.speedup.decode),
            _times(one.speedup.end_to_end),
            f"acceptance {_number(one.acceptance_length, '.2f')}",
        )
        for one in subtasks[:_MOST_SUBTASKS]
    ]
    hidden = len(subtasks) - _MOST_SUBTASKS
    return ["speedup by subtask", *lines, *([f"  and {hidden} more"] if hidden > 0 else [])]


def _acceptance_lines(acceptance: Acceptance) -> list[str]:
    lengths = (
        f"{_number(acceptance.pooled, '.3f')} tokens per pass (Spec-Bench); per request "
        f"{_number(acceptance.request_mean, '.3f')}; steady {_number(acceptance.steady, '.3f')}"
    )
    shares = (
        f"{_number(acceptance.per_drafted, '.1%')} of drafted tokens; "
        f"{_number(acceptance.per_verified, '.1%')} of verified rows become output"
    )
    rates = [f"{one.rate:.2f}" for one in acceptance.positions[:_MOST_POSITIONS]]
    more = ["..."] if len(acceptance.positions) > _MOST_POSITIONS else []
    return [
        _row("acceptance length", lengths),
        _row("accepted", shares),
        _row("accepted by position", " ".join([*rates, *more]) or "-"),
    ]


def _given_lines(run: Run) -> list[str]:
    """The rates that a cost-only run was given; no acceptance column holds them."""
    rates = run.identity.get("method", {}).get("acceptance")
    given = " ".join(f"{rate:.2f}" for rate in rates) if isinstance(rates, list) else "by random weights"
    return [_row("acceptance", f"given: {given}")]


def _split(split: Mapping[str, float] | None) -> str:
    shown = {name: share for name, share in (split or {}).items() if share or name != "search"}
    return ", ".join(f"{name} {share:.0%}" for name, share in shown.items()) or "-"


def _search_lines(summary: Summary) -> list[str]:
    lines = []
    if summary.skipped is not None:
        lines.append(_row("drafting skips", f"{summary.skipped:.1%} of sub-layers"))
    if cost := summary.search:
        speeds = ", ".join(
            f"{name} {_number(speed, '.1f')}"
            for name, speed in (("cold", cost.cold), ("warm", cost.warm), ("total", cost.total))
        )
        state = "over after" if cost.is_over else "not over in"
        lines.append(_row("search", f"{speeds} tokens/s"))
        lines.append(
            _row("", f"{cost.share:.1%} of decode time; {cost.steps} scores; {state} {cost.rounds} rounds")
        )
    return lines


def _output_lines(summary: Summary) -> list[str]:
    """Verdicts, or, for output that has none to earn, its quality."""
    if summary.lossy is not None:
        return [_row(label, text) for label, text in lossy_lines(summary.lossy)]
    return [_row("output", _output(summary))]


def _output(summary: Summary) -> str:
    always = (Verdict.EXACT, Verdict.VIOLATION)
    shown = {name: count for name, count in summary.verdicts.items() if count or name in always}
    counts = ", ".join(f"{name.value} {count}" for name, count in shown.items())
    first = summary.first_divergences
    return f"{counts}; first differs at {first[0]}" if first else counts


def _control(summary: Summary) -> str:
    checks = (summary.aa_decode, summary.aa_end_to_end)
    level = next((check.interval.level for check in checks if check), None)
    if summary.is_valid is None or level is None:
        return _row("A/A control", "not possible (needs 2 prompts and 2 repeats)")
    label = f"A/A control {level:.0%}: {'holds' if summary.is_valid else 'FAILS'}"
    return _row(label, *(_times(check.interval if check else None) for check in checks))


def _steadiness(summary: Summary) -> str:
    arms = (summary.baseline, summary.method)
    gauges = ", ".join(_number(arm.contention, ".2f") for arm in arms)
    spread = ", ".join(_number(arm.unsteady_prompts, "d") for arm in arms)
    return f"wall/CPU {gauges}; prompts varying over 5%: {spread} (baseline, method)"


def _left_out(summary: Summary) -> list[str]:
    failures = [*summary.failures.items(), *summary.eager_failures.items()]
    lines = [_row("FAILED", f"{count} x {reason}") for reason, count in failures[:_MOST_FAILURES]]
    if rest := sum(count for _, count in failures[_MOST_FAILURES:]):
        lines.append(_row("FAILED", f"{rest} more for other reasons"))
    if ids := summary.excluded:
        more = f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else ""
        lines.append(_row("excluded prompts", f"{len(ids)}, incomplete: {', '.join(ids[:_MOST_IDS])}{more}"))
    return lines


def _note_lines(notes: Sequence[str]) -> list[str]:
    wrapped = textwrap.wrap("; ".join(notes), COLUMNS - _LABEL, max_lines=2, placeholder=" ...")
    return [_row("" if i else "note", line) for i, line in enumerate(wrapped)]


def _speeds(arm: ArmFigures) -> tuple[str, str]:
    return _number(arm.decode_tokens_per_s, ".1f"), _number(arm.end_to_end_tokens_per_s, ".1f")


def _times(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    bounds = f" [{interval.low:.3f}, {interval.high:.3f}]" if interval.is_known else " [-, -]"
    return f"{interval.estimate:.3f}x{bounds}"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _row(label: str, *cells: str) -> str:
    return f"{label:<{_LABEL}}{''.join(f'{cell:<{_CELL}}' for cell in cells)}".rstrip()


def _fit(line: str) -> str:
    return line if len(line) <= COLUMNS else f"{line[: COLUMNS - 3]}..."
