"""The table that a run of several methods prints at its end.

Plain text, at most `bench.show.layout.COLUMNS` characters wide. What a reader must not miss comes first.
`docs/reading-the-table.md` explains every line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from bench.metrics.arena import PLAIN, Arena, Contest
from bench.metrics.intervals import Interval
from bench.metrics.latency import Latency, Percentiles
from bench.metrics.paired import Pairwise
from bench.metrics.run_figures import Summary, number, speedup
from bench.records.model import Verdict
from bench.show.alarms import alarm_lines, arena_alarms
from bench.show.expert_rows import arena_expert_rows
from bench.show.layout import COLUMNS, text_table

Rows = list[tuple[str, ...]]
_UNSHOWN = ("target", "weights", "frequent_tokens")
_GAP = 2
"""Spaces between two columns."""


def arena_table(arena: Arena) -> str:
    """The tables as text: heading, ranking, kinds of questions, waits, pairs, settings."""
    blocks = [
        _heading(arena),
        text_table(_ranking(arena)),
        text_table(_kinds(arena)),
        text_table(_waits(arena.latencies)),
        text_table(arena_expert_rows(arena.methods)),
        text_table(_matrix(arena.lossless)),
        _settings(arena),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _heading(arena: Arena) -> list[str]:
    run, summaries = arena.run, list(arena.methods.values())
    questions = max(summary.speedup.prompts for summary in summaries)
    repeats = max(summary.repeats for summary in summaries)
    return [
        f"{len(summaries)} methods on {run.task}, model {run.model}  (run {run.run_id})",
        f"{questions} prompts complete, {repeats} repeats in all; arms in changing order",
        *([f"prompts with {run.labels['chat']}"] if run.labels.get("chat") else []),
        *alarm_lines(arena_alarms(arena.lossless, arena.methods)),
        *contest_lines(arena.lossless),
    ]


def contest_lines(contest: Contest) -> Iterator[str]:
    """How fine a difference the run can see, and which methods slow whatever follows them."""
    if contest.resolution is not None:
        ratios = [speedup(check.interval) for check in (contest.resolution.arms, contest.resolution.places)]
        yield (
            f"two equal baselines: {ratios[0]} by name, {ratios[1]} by place; {contest.resolution.sentence}"
        )
    for label, interval in contest.carried.items():
        if interval.is_known and not interval.contains(1.0):
            yield f"whatever follows {label} takes {speedup(interval)} as long as after others"


def _ranking(arena: Arena) -> Rows:
    header = ("rank", "method", "decode", "end to end", "tokens/s", "length", "output")
    rows = _ranked_rows(arena, arena.lossless)
    lossy = _ranked_rows(arena, arena.lossy) if arena.lossy else []
    return [header, *rows, *([("", "lossy: not the model's own output"), *lossy] if lossy else [])]


def _ranked_rows(arena: Arena, contest: Contest) -> Rows:
    """One row per arm, fastest first; plain decoding stands among the lossless methods alone."""
    names = [name for name in _names(contest) if name != PLAIN or contest is arena.lossless]
    speeds = {name: _speed(arena, name) or 0.0 for name in names}
    order = sorted(names, key=lambda name: (contest.ranks.get(name, 0), -speeds[name]))
    return [
        (str(contest.ranks.get(name, "-")), name, *_cells(arena.methods.get(name), _speed(arena, name)))
        for name in order
    ]


def _names(contest: Contest) -> Sequence[str]:
    return contest.pairs.names if contest.pairs is not None else ()


def _speed(arena: Arena, name: str) -> float | None:
    if name in arena.methods:
        return arena.methods[name].method.decode_tokens_per_s
    return next(iter(arena.methods.values())).baseline.decode_tokens_per_s


def _cells(summary: Summary | None, tokens_per_s: float | None) -> tuple[str, ...]:
    speed = number(tokens_per_s, ".1f")
    if summary is None:
        return ("1", "1", speed, "1", "the reference")
    ratio = summary.speedup
    length = "given" if summary.is_cost_only else number(summary.acceptance.pooled)
    return (speedup(ratio.decode), speedup(ratio.end_to_end), speed, length, output_words(summary))


def output_words(summary: Summary) -> str:
    """What comparing the answers gave, in a few words."""
    if summary.is_lossy:
        return "lossy"
    checked = sum(summary.verdicts.values()) - summary.verdicts[Verdict.UNCHECKED]
    if not checked:
        return "not compared (sampled)"
    ties = summary.verdicts[Verdict.TIE_EXPLAINED]
    return f"exact {summary.verdicts[Verdict.EXACT]} of {checked}" + (f", {ties} ties" if ties else "")


def _kinds(arena: Arena) -> Rows:
    """Decode speedup by kind of question, with their number."""
    first = next(iter(arena.methods.values()))
    if not first.subtasks:
        return []
    names = [f"{part.name} ({part.speedup.prompts})" for part in first.subtasks]
    rows = [
        (label, *(number(_estimate(part.speedup.decode), unit="x") for part in summary.subtasks))
        for label, summary in arena.methods.items()
    ]
    return [("decode speedup by kind", *names), *rows]


def _estimate(interval: Interval | None) -> float | None:
    return None if interval is None else interval.estimate


def _waits(latencies: Mapping[str, Latency | None]) -> Rows:
    """Percentiles of the waits, in milliseconds."""
    header = ("waits in ms, p50/p90/p99", "first token", "per token", "per round")
    return [header, *wait_rows(latencies)]


def wait_rows(latencies: Mapping[str, Latency | None]) -> Rows:
    """Label, wait for the first token, per token and per round of every arm that was measured."""
    return [
        (label, *map(_milliseconds, (waits.first_token, waits.per_token, waits.per_round)))
        for label, waits in latencies.items()
        if waits is not None
    ]


def _milliseconds(waits: Percentiles | None) -> str:
    """The percentiles in milliseconds, ``12 / 15 / 31``."""
    if waits is None:
        return "-"
    values = [1e3 * seconds for seconds in (waits.p50, waits.p90, waits.p99)]
    return " / ".join(f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in values)


def _matrix(contest: Contest) -> Rows:
    """How many times as fast the row's arm is as the column's; in brackets where not told apart.

    Left out where it would not fit the width; the board has it in full.
    """
    if contest.pairs is None:
        return []
    table = [("row over column", *contest.pairs.names), *pair_rows(contest.pairs, pair_cell)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return table if sum(widths) + _GAP * (len(widths) - 1) <= COLUMNS else []


def pair_rows(pairs: Pairwise, cell: Callable[[Interval], str]) -> Rows:
    """A row per arm: its name, and a cell for every arm but itself."""
    return [
        (name, *("" if i == j else cell(interval) for j, interval in enumerate(line)))
        for i, (name, line) in enumerate(zip(pairs.names, pairs.intervals, strict=True))
    ]


def pair_cell(interval: Interval) -> str:
    """A ratio, in brackets where its interval holds 1; ``-`` where the two were never measured together."""
    if math.isnan(interval.estimate):
        return "-"
    ratio = f"{interval.estimate:.2f}x"
    return ratio if interval.is_known and not interval.contains(1.0) else f"({ratio})"


def _settings(arena: Arena) -> list[str]:
    lines = ["settings of each method"]
    for label, part in arena.run.methods.items():
        shown = {key: value for key, value in part["method"].items() if key not in _UNSHOWN}
        line = f"  {label}: {', '.join(_assignments(shown.items())) or 'none'}"
        lines.append(line if len(line) <= COLUMNS else f"{line[: COLUMNS - 3]}...")
    return lines


def _assignments(items: Iterable[tuple[str, object]]) -> list[str]:
    return [f"{key}={str(value).replace(' ', '')}" for key, value in items if value is not None]
