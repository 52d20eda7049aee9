"""Sections of a leaderboard and the ranks in them: a section holds what may be compared, and nothing else.

A section is one setting (model, device, precision, sampling, ...) and one set of questions. Within it,
lossless and lossy methods are ranked apart, and what cannot be believed or is not finished is listed with
the reason, without a rank.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from bench.metrics.intervals import Interval
from bench.records.model import Arm, Verdict
from bench.report.entries import Entry, Setting
from bench.tasks.spec_bench import QUESTIONS_PER_SUBTASK

_LONGEST_VALUE = 20


@dataclass(frozen=True, slots=True)
class Ranked:
    """An entry with its place; equal places are ties."""

    rank: int
    label: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Apart:
    """An entry without a place, and why."""

    reason: str
    label: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Section:
    """What may be compared: one setting, one set of questions."""

    setting: Setting
    asked: frozenset[str]
    subtasks: tuple[str, ...]
    is_partial: bool
    lossless: tuple[Ranked, ...]
    lossy: tuple[Ranked, ...]
    apart: tuple[Apart, ...]

    @property
    def ranked(self) -> tuple[Ranked, ...]:
        """Every entry with a place, lossless ones first."""
        return self.lossless + self.lossy

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every entry, those with a place first."""
        return tuple(one.entry for one in self.ranked) + tuple(one.entry for one in self.apart)

    @property
    def title(self) -> str:
        """Model, device, precision and sampling."""
        one = self.setting
        return f"{one.model} on {one.device}, {one.dtype}, {one.sampling}"

    @property
    def questions(self) -> str:
        """What was asked, such as ``40 of 80 built-in questions (mt_bench)``."""
        kinds = {"builtin": "built-in questions", "official": "official Spec-Bench questions"}
        kinds |= {"modified": "questions of a modified Spec-Bench file", "jsonl": "own questions"}
        kind = kinds.get(self.setting.prompts, f"{self.setting.prompts} questions")
        total = (
            QUESTIONS_PER_SUBTASK * len(self.subtasks)
            if self.setting.prompts in ("builtin", "official")
            else None
        )
        count = len(self.asked)
        amount = f"all {count}" if total == count else f"{count} of {total}" if total else f"{count}"
        return f"{amount} {kind} ({', '.join(self.subtasks)})"


def sections(found: Sequence[Entry]) -> list[Section]:
    """Entries by what may be compared: whole question sets first, larger ones first.

    An unfinished entry joins the smallest section of its setting whose questions hold all of its own.
    """
    finished = [one for one in found if not _is_unfinished(one)]
    groups: dict[tuple[Setting, frozenset[str]], list[Entry]] = {}
    for one in finished:
        groups.setdefault((one.setting, one.asked), []).append(one)
    for one in found:
        if _is_unfinished(one):
            wider = [key for key in groups if key[0] == one.setting and key[1] >= one.asked]
            key = min(wider, key=lambda key: len(key[1]), default=(one.setting, one.asked))
            groups.setdefault(key, []).append(one)
    made = [_section(setting, asked, group) for (setting, asked), group in groups.items()]
    return sorted(made, key=lambda one: (one.is_partial, one.setting, -len(one.asked), sorted(one.asked)))


def ranks(intervals: Sequence[Interval]) -> list[int]:
    """The place of each interval: one more than the number of intervals that lie wholly above it.

    Two methods have different places only if their intervals separate, so ties share one.
    """
    return [1 + sum(other.low > one.high for other in intervals) for one in intervals]


def reasons_apart(entry: Entry) -> list[str]:
    """Why an entry gets no place; empty if it may be ranked."""
    if not any(one.arm is Arm.METHOD for one in entry.samples):
        return ["the baseline alone"]
    return [*_gaps(entry), *_doubts(entry)]


def _gaps(entry: Entry) -> list[str]:
    """What was not measured, or not in full."""
    summary = entry.summary
    reasons = []
    if summary.failures:
        reasons.append(f"{sum(summary.failures.values())} samples failed ({next(iter(summary.failures))})")
    if _is_unfinished(entry):
        reasons.append(f"unfinished: {len(entry.asked)} of {entry.planned} questions")
    elif summary.excluded and not summary.failures:
        reasons.append(f"unfinished: {len(summary.excluded)} questions are incomplete")
    if summary.speedup.decode is None or not summary.speedup.decode.is_known:
        reasons.append("no interval")
    return reasons


def _doubts(entry: Entry) -> list[str]:
    """Why what was measured is not to be believed."""
    summary = entry.summary
    reasons = []
    if summary.run.labels.get("cost only"):
        reasons.append("cost only: its acceptance was given, not measured")
    if summary.is_valid is False:
        reasons.append("the A/A control fails: the baseline differs from itself")
    if summary.is_valid is None:
        reasons.append("no A/A control: it needs 2 questions and 2 repeats")
    if entry.is_gpu_shared:
        reasons.append("other work was on the GPU")
    if not summary.is_lossy and (count := summary.verdicts[Verdict.VIOLATION]):
        reasons.append(f"{count} outputs violate the promise to be the model's own")
    return reasons


def labels(group: Sequence[Entry]) -> list[str]:
    """A name per entry that tells it from the others: the method, and settings in which variants differ."""
    found = [_label(one, [other for other in group if other.method == one.method]) for one in group]
    return [
        name if found.count(name) == 1 else f"{name} (run {one.stored[0].run.run_id[-8:]})"
        for name, one in zip(found, group, strict=True)
    ]


def _label(entry: Entry, namesakes: Sequence[Entry]) -> str:
    keys = [
        key
        for key in sorted(entry.params)
        if any(other.params.get(key) != entry.params[key] for other in namesakes)
    ]
    parts = [entry.method, *(f"{key}={_value(entry.params[key])}" for key in keys)]
    if len({one.weights for one in namesakes}) > 1 and entry.weights:
        parts.append(f"weights {entry.weights[:6]}")
    if len({one.is_published for one in namesakes}) > 1 and not entry.is_published:
        parts.append("(own run)")
    return " ".join(parts)


def _value(value: object) -> str:
    """A setting as part of a name; a long list, such as a tree, by its length and a hash."""
    text = json.dumps(value)
    if isinstance(value, list) and len(text) > _LONGEST_VALUE:
        return f"{len(value)} entries #{hashlib.sha256(text.encode()).hexdigest()[:4]}"
    return value if isinstance(value, str) else text


def _is_unfinished(entry: Entry) -> bool:
    return entry.planned is not None and len(entry.asked) < entry.planned


def _section(setting: Setting, asked: frozenset[str], group: Sequence[Entry]) -> Section:
    named = list(zip(labels(group), group, strict=True))
    checked = [(label, one, "; ".join(reasons_apart(one))) for label, one in named]
    sound = [(label, one) for label, one, reason in checked if not reason]
    apart = [Apart(reason, label, one) for label, one, reason in checked if reason]
    widest = max(group, key=lambda one: len(one.asked))
    return Section(
        setting=setting,
        asked=asked,
        subtasks=tuple(dict.fromkeys(one.subtask for one in widest.samples)),
        is_partial=any(one.is_partial for one in group if one.asked == asked),
        lossless=_ranked([one for one in sound if not one[1].summary.is_lossy]),
        lossy=_ranked([one for one in sound if one[1].summary.is_lossy]),
        apart=tuple(sorted(apart, key=lambda one: one.label)),
    )


def _ranked(named: Sequence[tuple[str, Entry]]) -> tuple[Ranked, ...]:
    intervals = [decode for _, one in named if (decode := one.summary.speedup.decode) is not None]
    places = zip(ranks(intervals), intervals, named, strict=True)
    in_order = sorted(places, key=lambda place: (place[0], -place[1].estimate, place[2][0]))
    return tuple(Ranked(rank, label, entry) for rank, _, (label, entry) in in_order)
