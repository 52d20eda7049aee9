"""A page per run: the result first, then what explains it, where it comes from, and its answers.

A run that makes up a section of the board by itself is shown as it is there; of others, such as runs of one
subtask each that the board pools, the page shows what the run says alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.report.board import Section, sections
from bench.report.claims import CLAIM_HEADER, Paper, claim_row, match_claim
from bench.report.document import Chapter, section_chapter
from bench.report.entries import Entry, entries
from bench.report.provenance import provenance
from bench.report.stored_runs import StoredRun
from bench.report.tables import Table, section_tables

FOLDER = "pages"
"""Where the pages lie under the results folder."""


@dataclass(frozen=True, slots=True)
class RunPage:
    """All that the page of a run shows.

    Args:
        run_id: Id of the run.
        name: Name of its file without its ending.
        chapter: The run as a section of a board.
        provenance: Where its numbers come from.
        claims: The published claims that it can be held against; None where there are none.
        claims_note: How many there are of its methods.
        timelines: Name and address of every answer that has been drawn round by round.
        command: What draws another one.
    """

    run_id: str
    name: str
    chapter: Chapter
    provenance: Table
    claims: Table | None
    claims_note: str
    timelines: tuple[tuple[str, str], ...]
    command: str


def run_pages(
    runs: Sequence[StoredRun],
    every_entry: Sequence[Entry],
    board: Mapping[str, tuple[Section, Chapter]],
    papers: Sequence[Paper],
    results: Path,
) -> list[RunPage]:
    """The page of every run that holds samples.

    Args:
        runs: As `bench.report.stored_runs.read_runs` returns them.
        every_entry: Their entries.
        board: The sections and chapters of the board that rest on one run, by its id.
        papers: With their claims.
        results: The results folder.
    """
    groups: dict[str, list[StoredRun]] = {}
    for stored in runs:
        if stored.samples:
            groups.setdefault(page_name(stored, runs), []).append(stored)
    return [
        _page(name, parts, *_of_run(parts, every_entry, board), papers, results)
        for name, parts in groups.items()
    ]


def page_name(stored: StoredRun, runs: Sequence[StoredRun]) -> str:
    """Name of a run's page: its id; an own copy of a published run is told apart from it."""
    name = stored.run.run_id
    is_both = any(other.is_published for other in runs if other.run.run_id == name)
    return f"{name}-own" if is_both and not stored.is_published else name


def _of_run(
    parts: Sequence[StoredRun], every_entry: Sequence[Entry], board: Mapping[str, tuple[Section, Chapter]]
) -> tuple[Section, Chapter]:
    """The run as a section by itself."""
    known = board.get(parts[0].run.run_id)
    if known is not None and all(any(part in entry.stored for part in parts) for entry in known[0].entries):
        return known
    own = [entry for entry in every_entry if all(part in parts for part in entry.stored)]
    section = sections(own or entries(parts))[0]
    return section, section_chapter(section, section_tables(section))


def _page(
    name: str,
    parts: Sequence[StoredRun],
    section: Section,
    chapter: Chapter,
    papers: Sequence[Paper],
    results: Path,
) -> RunPage:
    claims, note = _claims(papers, section)
    folder = _folder(parts[0], results)
    label = f":{parts[0].label}" if parts[0].label else ""
    return RunPage(
        run_id=parts[0].run.run_id,
        name=name,
        chapter=chapter,
        provenance=provenance(parts),
        claims=claims,
        claims_note=note,
        timelines=tuple(
            (path.stem.removeprefix("timeline-"), os.path.relpath(path, results / FOLDER))
            for path in sorted(folder.glob("timeline-*.html"))
        ),
        command=f"python -m bench.report timeline {parts[0].run.run_id}{label}",
    )


def _folder(stored: StoredRun, results: Path) -> Path:
    """Where a run lies: a published one may be read from the results folder around it."""
    roots = (results / "published", results) if stored.is_published else (results,)
    places = [root / "runs" / stored.run.run_id for root in roots]
    return next((place for place in places if place.is_dir()), places[-1])


def _claims(papers: Sequence[Paper], section: Section) -> tuple[Table | None, str]:
    """The claims about this section's methods that were measured alike here, and their number in words."""
    methods = {entry.method for entry in section.entries}
    claims = [claim for paper in papers for claim in paper.claims if claim.method in methods]
    matched = [found for claim in claims if (found := match_claim(claim, [section])).measured]
    note = f"{len(claims)} published claims are about these methods; {len(matched)} were measured alike here."
    rows = tuple(claim_row(found) for found in matched)
    return (Table("Claims measured here", CLAIM_HEADER, rows) if rows else None), note
