"""A leaderboard as a document: text, tables and figures in reading order, before it becomes Markdown or
HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.arena_tables import arena_pictures, arena_remarks, arena_tables
from bench.report.board import Section
from bench.report.claims import Paper, claim_table
from bench.report.figure_data import pictures
from bench.report.style import Picture
from bench.report.tables import Table, has_eager

TITLE = "Self-speculative decoding leaderboard"
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
EMBEDDED_NOTE = (
    "The built-in questions suit the embedded model, whose text is very regular and easy to draft: these "
    "speedups show that the machinery works and say nothing about a method on a real model."
)
EAGER_NOTE = (
    "The column over an eager loop ranks nothing: it is the decode speedup over a textbook loop on the "
    "same weights and the first repeat of the same questions. Papers mostly report such a figure; it "
    "includes how much faster this runtime's own baseline is than that loop."
)
CLAIMS_TITLE = "Published claims"
CLAIMS_NOTE = (
    "What papers and boards report, beside what was measured here in the same setting. Speedups compare only "
    "on the same device and over a baseline of the same speed; acceptance lengths carry over between devices."
)


@dataclass(frozen=True, slots=True)
class Chapter:
    """A section of the leaderboard, or a profile, with all of its text.

    Args:
        anchor: Name of its files and of its place in the page.
        title: Setting.
        questions: What was asked, for the list of contents.
        subtitle: The same as a sentence, with what else was set.
        remarks: What a reader must know.
        tables: In reading order.
        pictures: In reading order.
        records: Ids of the runs, or of the profile, that it rests on.
    """

    anchor: str
    title: str
    questions: str
    subtitle: str
    remarks: tuple[str, ...]
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]
    records: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PaperClaims:
    """The claims of one paper beside our figures."""

    table: Table
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """The whole leaderboard: sections, then profiles, then claims."""

    chapters: tuple[Chapter, ...]
    claims: tuple[PaperClaims, ...]


def section_chapter(section: Section, tables: Sequence[Table]) -> Chapter:
    """A section with its tables, its remarks and its figures."""
    history = section.setting.history
    part = ", a part of its subtasks' questions" if section.is_partial else ""
    return Chapter(
        anchor=section.anchor,
        title=f"{section.title}, {len(section.asked)} questions",
        questions=section.questions,
        subtitle=f"Asked: {section.questions}{part}. Up to {section.setting.max_new_tokens} new tokens; "
        f"conversations continue on {'each arm' if history == 'free' else 'the baseline'}'s own answers.",
        remarks=_remarks(section),
        tables=(*tables, *arena_tables(section)),
        pictures=(*pictures(section), *arena_pictures(section)),
        records=tuple(sorted({stored.run.run_id for entry in section.entries for stored in entry.stored})),
    )


def paper_claims(papers: Sequence[Paper], board: Sequence[Section]) -> tuple[PaperClaims, ...]:
    """Every paper's claims beside what the board holds."""
    return tuple(
        PaperClaims(claim_table(paper, board), (*paper.remarks, _sources(paper))) for paper in papers
    )


def _remarks(section: Section) -> tuple[str, ...]:
    embedded = [EMBEDDED_NOTE] if section.setting.prompts == "builtin" else []
    return (*embedded, *arena_remarks(section), *([EAGER_NOTE] if has_eager(section) else []))


def _sources(paper: Paper) -> str:
    return "Sources: " + "; ".join(f"[{tag}] {meaning}" for tag, meaning in paper.tags.items()) + "."
