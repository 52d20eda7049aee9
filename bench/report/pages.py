"""The leaderboard as Markdown for GitHub and as HTML: one file, no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.report import document as texts
from bench.report.document import Chapter, Document, PaperClaims
from bench.report.fill import fill_template
from bench.show.layout import markdown_table, markdown_text


def markdown_page(whole: Document) -> str:
    """The document as Markdown; its figures are the files that `bench.report.build` writes beside it."""
    lines = [f"# {texts.TITLE}", "", *(f"- {note}" for note in texts.NOTES), ""]
    for chapter in whole.chapters:
        lines += _chapter(chapter)
    if whole.claims:
        lines += [f"## {texts.CLAIMS_TITLE}", "", texts.CLAIMS_NOTE, ""]
        for claims in whole.claims:
            lines += _claims(claims)
    return "\n".join(lines)


def html_page(whole: Document, drawings: Mapping[str, str]) -> str:
    """The document as one HTML file with its figures inside; every text is escaped.

    Args:
        whole: The document.
        drawings: Its figures as SVG elements, by the anchor of their chapter and their name: ``ANCHOR-NAME``.
    """
    return fill_template(
        "leaderboard.html",
        title=texts.TITLE,
        notes=texts.NOTES,
        chapters=whole.chapters,
        figures=drawings,
        claims=whole.claims,
        claims_title=texts.CLAIMS_TITLE,
        claims_note=texts.CLAIMS_NOTE,
    )


def _chapter(chapter: Chapter) -> list[str]:
    lines = [f"## {markdown_text(chapter.title)}", "", markdown_text(chapter.subtitle), ""]
    lines += [line for remark in chapter.remarks for line in (remark, "")]
    for table in chapter.tables:
        lines += [f"### {table.title}", "", *markdown_table(table.header, table.rows), ""]
    for picture in chapter.pictures:
        file = f"figures/{chapter.anchor}-{picture.name}.png"
        lines += [f"![{picture.caption}]({file})", "", picture.caption, ""]
    return [*lines, *_records(chapter.records)]


def _records(records: Sequence[str]) -> list[str]:
    names = (markdown_text(name).replace("`", "'") for name in records)
    return [f"Records: {', '.join(f'`{name}`' for name in names)}", ""]


def _claims(claims: PaperClaims) -> list[str]:
    return [
        f"<details><summary>{markdown_text(claims.table.title)}</summary>",
        "",
        *(f"- {markdown_text(remark)}" for remark in claims.remarks),
        "",
        *markdown_table(claims.table.header, claims.table.rows),
        "",
        "</details>",
        "",
    ]
