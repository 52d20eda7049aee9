"""A leaderboard as a document: text, tables and figures in reading order, before it becomes Markdown or
HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.report.arena_tables import (
    arena_pictures,
    arena_remarks,
    pair_tables,
    session_tables,
    settings_table,
    wait_table,
)
from bench.report.board import Section
from bench.report.charts import Chart, kind_charts, overall_chart
from bench.report.claim_order import order_table
from bench.report.claims import Paper, claim_table
from bench.report.experts import expert_pictures, expert_tables
from bench.report.figure_data import pictures
from bench.report.input_length import compact_tables
from bench.report.left_out import left_out_tables
from bench.report.style import Picture
from bench.report.tables import Table, has_eager, subtask_tables
from bench.report.words import (
    headline,
    place_words,
    section_alarms,
    session_words,
    setting_words,
    short_title,
)
from bench.show.alarms import Alarm

TITLE = "Self-speculative decoding leaderboard"
LEAD = (
    "How many times as fast each method decodes as plain autoregressive decoding by the same runtime, on the "
    "same questions; beyond the line at 1x it is faster. Compare within a section only."
)
NOTES = (
    "Speedups are over plain autoregressive decoding by the same runtime, interleaved with the method on "
    "the same questions: the ratio of seconds per token over all questions, with its 95 % interval over "
    "questions and sessions (docs/measuring.md explains it). Decode speedups leave the prefill "
    "out, end-to-end speedups include it.",
    "Ranks follow the decode speedup. In a run of several methods, a rank is one more than the number of "
    "methods that are faster for certain on the same questions; of runs of single methods, one more than the "
    "number of those whose interval lies wholly above.",
    "Acceptance length is tokens per target pass, the prefill counting as a pass of one token. The column "
    "output says what comparing every answer, token by token, with the baseline's gave; proved means that "
    "python -m bench.prove has tested this code, or code that decodes the same.",
    "By Spec-Bench's formula (a mean of per-question rates over another such mean) is shown only for "
    "comparison with boards that use it.",
    "Each section holds what may be compared: one model, device, precision, sampling, runtime and set of "
    "questions. Compare speedups within a section only.",
)
EAGER_NOTE = (
    "The column over an eager loop ranks nothing: it is the decode speedup over a textbook loop on the "
    "same weights and the first repeat of the same questions. Papers mostly report such a figure; it "
    "includes how much faster this runtime's own baseline is than that loop."
)
RESULT = "Result"
PICTURES = {
    RESULT: ("overall",),
    "Kinds of questions": ("speedup",),
    "Acceptance": ("acceptance", "positions"),
    "Time of a token, by phase": ("time", "prediction"),
    "Latency": ("waits",),
    "Experts": ("experts",),
    "Settings and machine": ("machine",),
}
"""Names of the figures of every part; the others stand in the last one."""
SHOWN_AS_CHARTS = ("overall", "speedup")
"""Figures for Markdown; a page of HTML has charts in their place."""
CLAIMS_TITLE = "Published claims"
CLAIMS_NOTE = (
    "What papers and boards report, beside what was measured here in the same setting. Speedups compare only "
    "on the same device and over a baseline of the same speed; acceptance lengths carry over between devices."
)
ORDER_NOTE = (
    "Places count the paper's methods that were ranked here alone. Two methods have an order here where the "
    "95 % interval of their ratio on the same questions lies wholly on one side of 1. Another model on "
    "another device may well have another order: what passes of many rows cost decides it."
)


@dataclass(frozen=True, slots=True)
class Part:
    """What a chapter says about one thing.

    Args:
        title: What it is about.
        tables, pictures, charts: In reading order; a page of HTML shows the charts, Markdown the pictures of
            the same figures (`SHOWN_AS_CHARTS`).
    """

    title: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    charts: tuple[Chart, ...] = ()

    @property
    def has_content(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.tables or self.pictures or self.charts)


@dataclass(frozen=True, slots=True)
class Chapter:
    """A section of the leaderboard, or a profile, with all of its text.

    Args:
        anchor: Name of its files and of its place in the page.
        title: What was measured on what, in short.
        setting: What else sets it apart.
        questions: What was asked, for the list of contents.
        subtitle: The same as a sentence, with what else was set.
        remarks: How its numbers are to be read.
        parts: What it shows, the result first.
        records: Ids of the runs, or of the profile, that it rests on.
        headline: The result in one sentence; empty for a profile.
        alarms: What to doubt, and what to do about it.
        device: Where it was measured, for the page's filter.
        kinds: Kinds of questions that were asked, for the same; none for a profile.
    """

    anchor: str
    title: str
    setting: str
    questions: str
    subtitle: str
    remarks: tuple[str, ...]
    parts: tuple[Part, ...]
    records: tuple[str, ...]
    headline: str = ""
    alarms: tuple[Alarm, ...] = ()
    device: str = ""
    kinds: tuple[str, ...] = ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The figures of all parts."""
        return tuple(picture for part in self.parts for picture in part.pictures)


@dataclass(frozen=True, slots=True)
class PaperClaims:
    """The claims of one paper beside our figures."""

    table: Table
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """The whole leaderboard: sections, then profiles.

    Args:
        chapters: In reading order.
        claims: A file of its own.
        pages: Name of the page of every run that has one, by run id.
    """

    chapters: tuple[Chapter, ...]
    claims: tuple[PaperClaims, ...]
    pages: Mapping[str, str]


def section_chapter(section: Section, tables: Sequence[Table]) -> Chapter:
    """A section with its remarks and figures.

    Args:
        section: The section.
        tables: Its rankings, see `bench.report.tables.section_tables`.
    """
    history = section.setting.history
    part = ", a part of its subtasks' questions" if section.is_partial else ""
    return Chapter(
        anchor=section.anchor,
        title=short_title(section),
        setting=setting_words(section),
        questions=section.questions,
        subtitle=f"Asked: {section.questions}{part}{session_words(section)}. "
        f"Up to {section.setting.max_new_tokens} new tokens; "
        f"conversations continue on {'each arm' if history == 'free' else 'the baseline'}'s own answers.",
        remarks=_remarks(section),
        parts=tuple(part for part in _parts(section, tables) if part.has_content),
        records=tuple(sorted({stored.run.run_id for entry in section.entries for stored in entry.stored})),
        headline=headline(section),
        alarms=tuple(section_alarms(section)),
        device=section.setting.device,
        kinds=section.subtasks,
    )


def _parts(section: Section, tables: Sequence[Table]) -> Iterator[Part]:
    """The result, then what explains it."""
    place = place_words(section)
    every = (*pictures(section), *arena_pictures(section), *expert_pictures(section))
    drawn = {picture.name: picture for picture in every}
    named = {name for names in PICTURES.values() for name in names}
    overall = overall_chart(section, place)
    by_kind = subtask_tables(section)
    speeds, lengths = tuple(by_kind[:1]), tuple(by_kind[1:])
    contents: dict[str, tuple[tuple[Table, ...], tuple[Chart, ...]]] = {
        RESULT: (tuple(tables), () if overall is None else (overall,)),
        "Kinds of questions": (speeds, kind_charts(section, place)),
        "Acceptance": ((*lengths, *left_out_tables(section)), ()),
        "Time of a token, by phase": ((), ()),
        "Latency": ((wait_table(section),), ()),
        "Experts": (tuple(expert_tables(section)), ()),
        "Length of the prompt": (tuple(compact_tables(section)), ()),
        "Methods compared with each other": ((*pair_tables(section), *session_tables(section)), ()),
        "Settings and machine": ((settings_table(section),), ()),
    }
    for title, (shown, charts) in contents.items():
        own = tuple(drawn[name] for name in PICTURES.get(title, ()) if name in drawn)
        yield Part(title, shown, own, charts)
    yield Part("Output and sweeps", (), tuple(drawn[name] for name in drawn if name not in named))


def paper_claims(papers: Sequence[Paper], board: Sequence[Section]) -> tuple[PaperClaims, ...]:
    """Every paper's claims beside what the board holds, then whether its order of methods was found."""
    made = []
    for paper in papers:
        made.append(PaperClaims(claim_table(paper, board), (*paper.remarks, _sources(paper))))
        order = order_table(paper, board)
        made += [PaperClaims(order, (ORDER_NOTE,))] if order else []
    return tuple(made)


def _remarks(section: Section) -> tuple[str, ...]:
    return (*arena_remarks(section), *([EAGER_NOTE] if has_eager(section) else []))


def _sources(paper: Paper) -> str:
    return "Sources: " + "; ".join(f"[{tag}] {meaning}" for tag, meaning in paper.tags.items()) + "."
