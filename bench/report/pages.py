"""The leaderboard, a run and the claims as pages: Markdown for GitHub, and HTML in one file each.

A page of HTML loads nothing from elsewhere and needs no script: with one, its tables sort and its rows
filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.report import document as texts
from bench.report.document import Chapter, Document, PaperClaims
from bench.report.fill import fill_template
from bench.report.run_pages import FOLDER, RunPage
from bench.show.layout import markdown_table, markdown_text

CLAIMS = "claims"
"""Name of the files of the claims, without their ending."""


def markdown_page(whole: Document) -> str:
    """The document as Markdown; its figures are the files that `bench.report.build` writes beside it."""
    lines = [f"# {texts.TITLE}", "", texts.LEAD, ""]
    for chapter in whole.chapters:
        lines += _chapter(chapter, whole.pages)
    lines += ["## How to read this", "", *(f"- {note}" for note in texts.NOTES), ""]
    lines += [f"What papers claim, beside what was measured here: [{CLAIMS}.md]({CLAIMS}.md).", ""]
    return "\n".join(lines)


def markdown_claims(claims: Sequence[PaperClaims]) -> str:
    """The claims of all papers as Markdown."""
    lines = [f"# {texts.CLAIMS_TITLE}", "", texts.CLAIMS_NOTE, ""]
    for paper in claims:
        lines += _claims(paper)
    return "\n".join(lines)


def html_page(whole: Document, drawings: Mapping[str, str]) -> str:
    """The board as one HTML file; every text is escaped.

    A section that rests on one run shows its result, and leads to the run's page for the rest.

    Args:
        whole: The document.
        drawings: Its figures as SVG elements, by the anchor of their chapter and their name: ``ANCHOR-NAME``.
    """
    return fill_template(
        "leaderboard.html",
        title=texts.TITLE,
        lead=texts.LEAD,
        notes=texts.NOTES,
        chapters=whole.chapters,
        pages={run: f"{FOLDER}/{name}.html" for run, name in whole.pages.items()},
        figures=drawings,
        as_charts=texts.SHOWN_AS_CHARTS,
        claims=f"{CLAIMS}.html",
        devices=sorted({chapter.device for chapter in whole.chapters if chapter.device}),
        **_choices(whole.chapters),
    )


def html_run(page: RunPage, drawings: Mapping[str, str], board: str) -> str:
    """The page of a run.

    Args:
        page: What it shows.
        drawings: Its figures as SVG elements, by the anchor of its chapter and their name.
        board: Name of the board's file, one folder above.
    """
    return fill_template(
        "run.html",
        page=page,
        chapter=page.chapter,
        notes=texts.NOTES,
        figures=drawings,
        as_charts=texts.SHOWN_AS_CHARTS,
        board=f"../{board}",
        claims=f"../{CLAIMS}.html",
        title=page.chapter.title,
        **_choices([page.chapter]),
    )


def html_claims(claims: Sequence[PaperClaims], board: str) -> str:
    """The claims of all papers as one HTML file.

    Args:
        claims: Paper by paper.
        board: Name of the board's file beside it.
    """
    return fill_template(
        "claims.html", title=texts.CLAIMS_TITLE, note=texts.CLAIMS_NOTE, claims=claims, board=board
    )


def _choices(chapters: Sequence[Chapter]) -> dict[str, Any]:
    """What the filters of a page offer: kinds of questions, and whether some output is lossy."""
    charts = [chart for chapter in chapters for part in chapter.parts for chart in part.charts]
    kinds = dict.fromkeys(kind for chapter in chapters for kind in chapter.kinds)
    has_lossy = any(group.output == "lossy" for chart in charts for group in chart.groups)
    return {"kinds": list(kinds), "has_lossy": has_lossy}


def _chapter(chapter: Chapter, pages: Mapping[str, str]) -> list[str]:
    lines = [f"## {markdown_text(chapter.title)}", ""]
    lines += [f"**{markdown_text(chapter.headline)}**", ""] if chapter.headline else []
    for alarm in chapter.alarms:
        lines += [f"> **{alarm.name}**: {markdown_text(alarm.what)}. To do: {markdown_text(alarm.fix)}.", ""]
    lines += [markdown_text(chapter.setting), "", markdown_text(chapter.subtitle), ""]
    for place, part in enumerate(chapter.parts):
        lines += [] if place == 0 else [f"### {part.title}", ""]
        for picture in part.pictures:
            file = f"figures/{chapter.anchor}-{picture.name}.png"
            lines += [f"![{picture.caption}]({file})", "", picture.caption, ""]
        for table in part.tables:
            lines += [f"#### {table.title}", "", *markdown_table(table.header, table.rows), ""]
        lines += [line for remark in chapter.remarks if place == 0 for line in (remark, "")]
    return [*lines, *_records(chapter.records, pages)]


def _records(records: Sequence[str], pages: Mapping[str, str]) -> list[str]:
    names = [markdown_text(name).replace("`", "'") for name in records]
    linked = [
        f"[`{name}`]({FOLDER}/{pages[run]}.html)" if run in pages else f"`{name}`"
        for run, name in zip(records, names, strict=True)
    ]
    return [f"Records: {', '.join(linked)}", ""]


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
