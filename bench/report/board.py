"""Sections of a leaderboard and the ranks in them: a section holds what may be compared, and nothing else.

A section is one setting (model, device, precision, sampling, ...) and one set of questions. A run of several
methods is a section of its own, ranked by paired differences (`bench.metrics.arena`); runs of single methods
stand in sections below, since they were measured at different times. Within a section, lossless and lossy
methods are ranked separately. What cannot be believed or is not finished is listed with the reason and has no
rank.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.metrics.arena import PLAIN, Contest, contest
from bench.metrics.intervals import Costs, Interval
from bench.metrics.paired import shared_ranks
from bench.metrics.summary import QUESTION_SOURCES
from bench.records.model import Arm
from bench.report.entries import Entry, Setting, is_unfinished, reasons_unranked
from bench.tasks.spec_bench import QUESTIONS_PER_SUBTASK

_LONGEST_VALUE = 20


@dataclass(frozen=True, slots=True)
class Ranked:
    """An entry with its rank; equal ranks are ties."""

    rank: int
    label: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Unranked:
    """An entry without a rank, and why it has none."""

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
    unranked: tuple[Unranked, ...]
    arena: str = ""
    """Id of the run of several methods that it shows; empty for runs of single methods."""
    contests: tuple[Contest, ...] = ()
    """How the methods of that run compare: the lossless ones, then the lossy ones, with plain decoding."""
    apart: str = ""
    """What sets it apart from a section that is otherwise equal: the version of torch, how threads wait."""

    @property
    def ranked(self) -> tuple[Ranked, ...]:
        """Every entry with a rank, lossless ones first."""
        return self.lossless + self.lossy

    @property
    def labelled(self) -> dict[str, Entry]:
        """Every entry by its label, those with a rank first."""
        ranked = {row.label: row.entry for row in self.ranked}
        return ranked | {row.label: row.entry for row in self.unranked}

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every entry, those with a rank first."""
        return tuple(row.entry for row in self.ranked) + tuple(row.entry for row in self.unranked)

    @property
    def chat(self) -> str:
        """What the chat template was given beside the questions, cut where it is long; empty for nothing."""
        return str(self.entries[0].summary.run.labels.get("chat", "")) if self.entries else ""

    @property
    def draft_head(self) -> str:
        """How the weights of the head that drafts are held, if not as stored."""
        return "draft head in 8 bits" if self.setting.option("draft_head") == "int8" else ""

    @property
    def title(self) -> str:
        """Model, device, precision, sampling, what the runtime was set to, and what else sets it apart."""
        setting = self.setting
        parts = [f"{setting.model} on {setting.device}", setting.dtype, setting.sampling]
        tier, length = setting.option("tier"), setting.option("max_length")
        parts += [f"{tier} tier"] if tier else []
        parts += [self.draft_head] if self.draft_head else []
        parts += [f"at most {length} tokens"] if length else []
        parts += [f"prompts with {self.chat}"] if self.chat else []
        parts += ["settings tuned on this machine"] if setting.tuned else []
        parts += [self.apart] if self.apart else []
        return ", ".join(parts)

    @property
    def anchor(self) -> str:
        """Model and 8 hex digits over all that sets the section apart from others: a file name that stays."""
        parts = [part for part in (self.apart, self.arena, "tuned" * self.setting.tuned) if part]
        text = "\n".join([repr(self.setting), *parts, *sorted(self.asked)])
        model = "".join(
            character if character.isalnum() or character in "_-" else "-" for character in self.setting.model
        )
        return f"{model}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def sessions(self) -> int:
        """How often its answers were measured, each time by a fresh process and maybe on another day."""
        return len({sample.session for entry in self.entries for sample in entry.samples})

    @property
    def questions(self) -> str:
        """What was asked, such as ``40 of 80 built-in questions (mt_bench)``."""
        source, count = self.setting.prompts, len(self.asked)
        kind = QUESTION_SOURCES.get(source, f"{source} questions")
        total = QUESTIONS_PER_SUBTASK.get(source, 0) * len(self.subtasks)
        amount = f"all {count}" if total == count else f"{count} of {total}" if total else f"{count}"
        return f"{amount} {kind} ({', '.join(self.subtasks)})"


def sections(every_entry: Sequence[Entry]) -> list[Section]:
    """Entries grouped by what may be compared: runs of several methods first, then whole question sets.

    Of these, sections with ranks stand before those without, then more questions before fewer, then more
    methods before fewer. An unfinished entry joins the smallest section of its setting that has all of its
    questions.
    """
    apart = [entry for entry in every_entry if not entry.arena]
    made = [_section(setting, asked, group) for (setting, asked), group in _groups(apart).items()]
    arenas = dict.fromkeys(entry.arena for entry in every_entry if entry.arena)
    made += [_arena_section([entry for entry in every_entry if entry.arena == arena]) for arena in arenas]
    made = [replace(part, apart=_apart(part.setting, [other.setting for other in made])) for part in made]
    return sorted(
        made,
        key=lambda part: (
            *(not part.arena, part.is_partial, not part.ranked, -len(part.asked), -len(part.entries)),
            *(part.setting, sorted(part.asked), part.arena),
        ),
    )


def _groups(every_entry: Sequence[Entry]) -> dict[tuple[Setting, frozenset[str]], list[Entry]]:
    """Runs of single methods, by setting and questions."""
    groups: dict[tuple[Setting, frozenset[str]], list[Entry]] = {}
    for entry in every_entry:
        if not is_unfinished(entry):
            groups.setdefault((entry.setting, entry.asked), []).append(entry)
    for entry in every_entry:
        if is_unfinished(entry):
            wider = [key for key in groups if key[0] == entry.setting and key[1] >= entry.asked]
            key = min(wider, key=lambda key: len(key[1]), default=(entry.setting, entry.asked))
            groups.setdefault(key, []).append(entry)
    return groups


def _apart(setting: Setting, others: Sequence[Setting]) -> str:
    """The machine's software, where another setting differs in nothing else; empty elsewhere."""
    alike = [
        other for other in others if replace(other, torch=setting.torch, waiting=setting.waiting) == setting
    ]
    parts = [f"torch {setting.torch or 'unknown'}"] if len({other.torch for other in alike}) > 1 else []
    if len({other.waiting for other in alike}) > 1:
        parts.append(f"OMP_WAIT_POLICY {setting.waiting or 'not set'}")
    return ", ".join(parts)


def ranks(intervals: Sequence[Interval]) -> list[int]:
    """The rank of each interval: one more than the number of intervals that lie wholly above it.

    Methods of equal rank may differ in speed, and methods of different rank may have intervals that overlap:
    a difference between two methods is sure only where their own intervals do not overlap.
    """
    return [1 + sum(other.low > interval.high for other in intervals) for interval in intervals]


def labels(group: Sequence[Entry]) -> list[str]:
    """A name per entry that differs from all others: the method, and the settings in which its variants
    differ.
    """
    names = [
        entry.stored[0].label or _label(entry, [other for other in group if other.method == entry.method])
        for entry in group
    ]
    return [
        name if names.count(name) == 1 else f"{name} (run {entry.stored[0].run.run_id[-8:]})"
        for name, entry in zip(names, group, strict=True)
    ]


def _label(entry: Entry, variants: Sequence[Entry]) -> str:
    keys = [
        key
        for key in sorted(entry.params)
        if any(other.params.get(key) != entry.params[key] for other in variants)
    ]
    parts = [entry.method, *(f"{key}={_value(entry.params[key])}" for key in keys)]
    if len({other.seed for other in variants}) > 1:
        parts.append(f"seed={entry.seed}")
    if len({other.weights for other in variants}) > 1 and entry.weights:
        parts.append(f"weights {entry.weights[:6]}")
    if len({other.is_published for other in variants}) > 1 and not entry.is_published:
        parts.append("(own run)")
    return " ".join(parts)


def _value(value: object) -> str:
    """A setting as part of a name; a long list, such as a tree, by its length and a hash."""
    text = json.dumps(value)
    if isinstance(value, list) and len(text) > _LONGEST_VALUE:
        return f"{len(value)} entries #{hashlib.sha256(text.encode()).hexdigest()[:4]}"
    return value if isinstance(value, str) else text


def _section(setting: Setting, asked: frozenset[str], group: Sequence[Entry]) -> Section:
    checked = [
        (label, entry, "; ".join(reasons_unranked(entry)))
        for label, entry in zip(labels(group), group, strict=True)
    ]
    sound = [(label, entry) for label, entry, reason in checked if not reason]
    unranked = [Unranked(reason, label, entry) for label, entry, reason in checked if reason]
    widest = max(group, key=lambda entry: len(entry.asked))
    return Section(
        setting=setting,
        asked=asked,
        subtasks=tuple(dict.fromkeys(sample.subtask for sample in widest.samples)),
        is_partial=any(entry.is_partial for entry in group if entry.asked == asked),
        lossless=_ranked([(label, entry) for label, entry in sound if not entry.summary.is_lossy]),
        lossy=_ranked([(label, entry) for label, entry in sound if entry.summary.is_lossy]),
        unranked=tuple(sorted(unranked, key=lambda row: row.label)),
    )


def _arena_section(group: Sequence[Entry]) -> Section:
    """The section of a run of several methods."""
    widest = max(group, key=lambda entry: len(entry.asked))
    section = _section(widest.setting, widest.asked, group)
    shared = [sample for sample in widest.samples if sample.arm is not Arm.METHOD]
    own = [sample for entry in group for sample in entry.samples if sample.arm is Arm.METHOD]
    every = [*shared, *own]
    contests = tuple(
        contest(every, [e.stored[0].label for e in group if e.summary.is_lossy is is_lossy])
        for is_lossy in (False, True)
    )
    kinds, unranked = (section.lossless, section.lossy), section.unranked
    if reason := contests[0].reason:
        unranked += tuple(Unranked(reason, row.label, row.entry) for row in section.ranked)
        kinds = ((), ())
    lossless, lossy = (_with_ranks(rows, part.costs) for rows, part in zip(kinds, contests, strict=True))
    return replace(
        section,
        lossless=lossless,
        lossy=lossy,
        unranked=tuple(sorted(unranked, key=lambda row: row.label)),
        arena=widest.arena,
        contests=contests,
    )


def _with_ranks(rows: Sequence[Ranked], costs: Costs) -> tuple[Ranked, ...]:
    """The rows with their ranks among each other, without the place that plain decoding takes."""
    ranks = shared_ranks(costs, [PLAIN, *(row.entry.stored[0].label for row in rows)])
    placed = {row.label: ranks.get(row.entry.stored[0].label, 0) for row in rows}
    plain = ranks.get(PLAIN, 0)
    made = [replace(row, rank=rank - (0 < plain < rank)) for row in rows if (rank := placed[row.label])]
    return tuple(sorted(made, key=lambda row: (row.rank, -_estimate(row.entry), row.label)))


def _estimate(entry: Entry) -> float:
    decode = entry.summary.speedup.decode
    return 0.0 if decode is None else decode.estimate


def _ranked(named: Sequence[tuple[str, Entry]]) -> tuple[Ranked, ...]:
    intervals = [decode for _, entry in named if (decode := entry.summary.speedup.decode) is not None]
    places = zip(ranks(intervals), intervals, named, strict=True)
    in_order = sorted(places, key=lambda place: (place[0], -place[1].estimate, place[2][0]))
    return tuple(Ranked(rank, label, entry) for rank, _, (label, entry) in in_order)
