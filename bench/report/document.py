"""A leaderboard as a document: text, tables and figures in reading order, before any markup."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.board import Section
from bench.report.claims import Paper, claim_table
from bench.report.figure_data import pictures
from bench.report.picture import Picture
from bench.report.tables import Table, has_eager, section_tables

TITLE = "Self-speculative decoding leaderboard"
NOTES = (
    "Speedups are over autoregressive decoding by the same runtime, interleaved with the method on the same "
    "questions: ratio of seconds per token over all questions, with a 95 % bootstrap interval over them. "
    "Decode leaves the prefill out; end to end holds it.",
    "Ranks follow the decode speedup. A rank is one more than the number of methods whose interval lies "
    "wholly above; methods whose intervals overlap are not told apart.",
    "Acceptance length is tokens per target pass, the prefill being a pass of one token. Output says what "
    "comparing every answer with the model's own gave.",
    "Spec-Bench's formula (a mean of per-question rates over another such mean) is shown to compare with its "
    "boards only.",
    "Sections hold what may be compared: one model, device, precision, sampling and set of questions. "
    "Compare speedups within a section only.",
)
EMBEDDED_NOTE = (
    "The built-in questions suit the embedded model, whose text is very regular and easy to draft: these "
    "speedups show that the machinery works and say nothing about a method on a real model."
)
EAGER_NOTE = (
    "Against eager ranks nothing: it is the decode speedup over a textbook loop on the same weights and the "
    "first repeat of the same questions. Papers mostly report such a figure; how much faster this runtime's "
    "own baseline is than that loop is part of it."
)
CLAIMS_TITLE = "Published claims"
CLAIMS_NOTE = (
    "What papers and boards report, beside what was measured here in the same setting. Speedups compare only "
    "on the same device and over a baseline of the same speed; acceptance lengths carry over between devices."
)


@dataclass(frozen=True, slots=True)
class Chapter:
    """A section of the leaderboard, or a profile, ready to be set.

    Args:
        anchor: Name of its files and of its place in the page.
        title: Setting.
        questions: What was asked, for the list of contents.
        subtitle: The same as a sentence, with what else was set.
        remarks: What a reader must know.
        tables: In reading order.
        pictures: In reading order.
        records: Ids of the runs, or of the profile, it rests on.
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
    """The whole leaderboard."""

    chapters: tuple[Chapter, ...]
    claims: tuple[PaperClaims, ...]


def document(found: Sequence[Section], papers: Sequence[Paper], profiles: Sequence[Chapter] = ()) -> Document:
    """Chapters in the order of the sections, then those of profiles, then the claims."""
    claims = [PaperClaims(claim_table(one, found), (*one.remarks, _legend(one))) for one in papers]
    return Document((*(chapter_of(one) for one in found), *profiles), tuple(claims))


def chapter_of(section: Section) -> Chapter:
    """A section, ready to be set."""
    history = section.setting.history
    part = ", a part of its subtasks' questions" if section.is_partial else ""
    return Chapter(
        anchor=_anchor(section),
        title=section.title,
        questions=section.questions,
        subtitle=f"Asked: {section.questions}{part}. Up to {section.setting.max_new_tokens} new tokens; "
        f"conversations continue on {'each arm' if history == 'free' else 'the baseline'}'s own answers.",
        remarks=_remarks(section),
        tables=tuple(section_tables(section)),
        pictures=tuple(pictures(section)),
        records=tuple(sorted({stored.run.run_id for entry in section.entries for stored in entry.stored})),
    )


def _remarks(section: Section) -> tuple[str, ...]:
    embedded = [EMBEDDED_NOTE] if section.setting.prompts == "builtin" else []
    return (*embedded, *([EAGER_NOTE] if has_eager(section) else []))


def _anchor(section: Section) -> str:
    """Model and 8 hex digits over all that sets the section apart: a file name that stays."""
    text = "\n".join([repr(section.setting), *sorted(section.asked)])
    model = "".join(one if one.isalnum() or one in "_-" else "-" for one in section.setting.model)
    return f"{model}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _legend(paper: Paper) -> str:
    return "Sources: " + "; ".join(f"[{tag}] {meaning}" for tag, meaning in paper.tags.items()) + "."
