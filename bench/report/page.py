"""The leaderboard and the timeline as HTML: one file each, no script, nothing loaded from elsewhere."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bench.report import document as texts
from bench.report.document import Document
from bench.report.style import svg


def page(whole: Document) -> str:
    """The leaderboard as one HTML file with its figures inside; every text is escaped."""
    figures = {
        (chapter.anchor, picture.name): svg(picture.figure, f"{chapter.anchor}-{picture.name}")
        for chapter in whole.chapters
        for picture in chapter.pictures
    }
    return render(
        "leaderboard.html",
        title=texts.TITLE,
        notes=texts.NOTES,
        chapters=whole.chapters,
        figures=figures,
        claims=whole.claims,
        claims_title=texts.CLAIMS_TITLE,
        claims_note=texts.CLAIMS_NOTE,
    )


def render(template: str, **values: Any) -> str:  # noqa: ANN401 - whatever a template shows
    """A template of ``bench/report/templates`` filled in, with every value escaped."""
    loader = PackageLoader("bench.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values) + "\n"
