"""The leaderboard as Markdown for GitHub."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.document import CLAIMS_NOTE, CLAIMS_TITLE, NOTES, TITLE, Chapter, Document, PaperClaims
from bench.report.tables import Table


def markdown(whole: Document) -> str:
    """The document as Markdown; figures are the files that `bench.report.build` writes beside it."""
    lines = [f"# {TITLE}", "", *(f"- {note}" for note in NOTES), ""]
    for chapter in whole.chapters:
        lines += _chapter(chapter)
    if whole.claims:
        lines += [f"## {CLAIMS_TITLE}", "", CLAIMS_NOTE, ""]
        for one in whole.claims:
            lines += _claims(one)
    return "\n".join(lines)


def table_lines(table: Table) -> list[str]:
    """A pipe table; cells cannot break out of it."""
    rows = [table.header, tuple("---" for _ in table.header), *table.rows]
    return [f"| {' | '.join(_cell(one) for one in row)} |" for row in rows]


def _chapter(chapter: Chapter) -> list[str]:
    lines = [f"## {_text(chapter.title)}", "", _text(chapter.subtitle), ""]
    lines += [line for remark in chapter.remarks for line in (remark, "")]
    for table in chapter.tables:
        lines += [f"### {table.title}", "", *table_lines(table), ""]
    for picture in chapter.pictures:
        lines += [
            f"![{picture.caption}](figures/{chapter.anchor}-{picture.name}.png)",
            "",
            picture.caption,
            "",
        ]
    return [*lines, *_records(chapter.records)]


def _records(records: Sequence[str]) -> list[str]:
    return [f"Records: {', '.join(f'`{one}`' for one in records)}", ""]


def _claims(one: PaperClaims) -> list[str]:
    heading = f"<details><summary>{_text(one.table.title)}</summary>"
    return [
        heading,
        "",
        *(f"- {_text(note)}" for note in one.remarks),
        "",
        *table_lines(one.table),
        "",
        "</details>",
        "",
    ]


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """One line in which nothing is read as HTML."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
