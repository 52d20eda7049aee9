"""Builds the files of a leaderboard from records, writes them, or checks that those on disk are up to date.

The same records give the same bytes: no dates, fixed float formats, and seeded ids. Drawings may differ
between versions of matplotlib, so `differences` compares Markdown, CSV, and HTML without its drawings; figure
files must only be there.

The board lies in ``leaderboard.md``, ``.html`` and ``.csv``, what papers claim in ``claims.md`` and
``.html``, and every run has a page in ``pages``.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError
from bench.records.files import write_bytes, write_text
from bench.report.board import Section, sections
from bench.report.claims import load_papers
from bench.report.document import SHOWN_AS_CHARTS, Chapter, Document, paper_claims, section_chapter
from bench.report.drawing import NOT_DRAWN, Drawn, Order, draw_all
from bench.report.entries import Entry, entries
from bench.report.exchange.rows import elsewhere_chapters
from bench.report.pages import html_claims, html_page, html_run, markdown_claims, markdown_page
from bench.report.profiles import profile_chapters
from bench.report.routing import routing_chapters
from bench.report.run_pages import FOLDER, RunPage, run_pages
from bench.report.stored_runs import read_runs
from bench.report.tables import csv_rows, section_tables

LEADERBOARD, LEADERBOARD_CSV = "leaderboard.html", "leaderboard.csv"
_OWN_FIGURE = re.compile(r".+-[0-9a-f]{8}-[^/]+\.(png|svg)")
"""A chapter's anchor, which ends in 8 hex digits, and the picture's name."""


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Everything that a results folder says.

    Args:
        entries: Every entry, ranked or not.
        texts: Text files by name.
        pictures: Figure files by name under ``figures``, which Markdown shows.
        unreadable: What is wrong with each run that is missing because it cannot be read.
    """

    entries: tuple[Entry, ...]
    texts: dict[str, str]
    pictures: dict[str, bytes]
    unreadable: tuple[UserError, ...] = ()

    @property
    def failures(self) -> int:
        """Failed samples in the records, of every arm."""
        summaries = [entry.summary for entry in self.entries]
        return sum(sum([*part.failures.values(), *part.eager_failures.values()]) for part in summaries)


def build(results: Path, *, is_drawn: bool = True) -> Leaderboard:
    """The leaderboard of a results folder: first the board itself, then what explains it.

    Args:
        results: The results folder.
        is_drawn: Without drawings it takes a fraction of the time, and does for `differences`.

    Raises:
        UserError: If there are no runs that can be read, or a list of claims is corrupt.
    """
    read = read_runs(results)
    every_entry = entries(read.runs)
    board = sections(every_entry)
    tables = [section_tables(section) for section in board]

    chapters = [section_chapter(section, rows) for section, rows in zip(board, tables, strict=True)]
    others = (
        *profile_chapters(results),
        *routing_chapters(results),
        *elsewhere_chapters(results),
    )
    papers = load_papers()
    alone = {
        chapter.records[0]: (section, chapter)
        for section, chapter in zip(board, chapters, strict=True)
        if len(chapter.records) == 1
    }
    pages = run_pages(read.runs, every_entry, alone, papers, results)
    names = {
        page.run_id: page.name for page in reversed(pages)
    }  # of a published run and its copy, the former
    whole = Document((*chapters, *others), paper_claims(papers, board), names)
    orders = _orders(whole.chapters) + _orders_of_pages(pages, whole.chapters)
    files = draw_all(orders) if is_drawn else [NOT_DRAWN] * len(orders)
    drawn = dict(zip(orders, files, strict=True))
    on_board = _elements(drawn)
    texts = _texts(whole, on_board) | {LEADERBOARD_CSV: csv_text(board)}
    texts |= {
        f"{FOLDER}/{page.name}.html": html_run(page, _elements(drawn, page.name) or on_board, LEADERBOARD)
        for page in pages
    }
    pictures = {f"{order.name}.png": files.png for order, files in drawn.items() if order.as_png}
    return Leaderboard(tuple(every_entry), texts, pictures, tuple(read.unreadable.values()))


def _orders_of_pages(pages: Sequence[RunPage], chapters: Sequence[Chapter]) -> list[Order]:
    """The figures of pages that show what the board does not."""
    own = [page for page in pages if not any(page.chapter is chapter for chapter in chapters)]
    return [order for page in own for order in _orders([page.chapter], page.name)]


def _orders(chapters: Sequence[Chapter], page: str = "") -> list[Order]:
    """The figures of chapters; a page of HTML draws some itself, as charts."""
    return [
        Order(f"{chapter.anchor}-{picture.name}", picture, page, as_svg=not is_chart, as_png=not page)
        for chapter in chapters
        for picture in chapter.pictures
        if not ((is_chart := picture.name in SHOWN_AS_CHARTS) and page)
    ]


def _elements(drawn: Mapping[Order, Drawn], page: str = "") -> dict[str, str]:
    """SVG elements by name: the board's, or those that a page has of its own."""
    return {order.name: files.svg for order, files in drawn.items() if order.as_svg and order.page == page}


def _texts(whole: Document, drawings: Mapping[str, str]) -> dict[str, str]:
    return {
        "leaderboard.md": markdown_page(whole),
        LEADERBOARD: html_page(whole, drawings),
        "claims.md": markdown_claims(whole.claims),
        "claims.html": html_claims(whole.claims, LEADERBOARD),
    }


def write(board: Leaderboard, results: Path) -> list[Path]:
    """Write every file, remove our own figures and pages of what is gone; the paths of the board's texts.

    Raises:
        UserError: If the folder cannot be written.
    """
    figures = results / "figures"
    try:
        figures.mkdir(parents=True, exist_ok=True)
        for old in _own_figures(figures) - set(board.pictures):
            (figures / old).unlink()
        for name, picture in board.pictures.items():
            write_bytes(figures / name, picture)
        (results / FOLDER).mkdir(exist_ok=True)
        for old in _own_pages(results) - set(board.texts):
            (results / old).unlink()
        for name, text in board.texts.items():
            write_text(results / name, text)
    except OSError as error:
        raise UserError(
            f"{results} cannot be written: {error}", "choose another folder, or free space"
        ) from error
    return [results / name for name in board.texts if not name.startswith(FOLDER)]


def differences(board: Leaderboard, results: Path) -> list[str]:
    """Files on disk that do not follow from the records: texts that differ, files missing or left over."""
    texts = [name for name, text in board.texts.items() if _stored(results / name) != _comparable(text)]
    texts += sorted(_own_pages(results) - set(board.texts))
    return texts + [
        f"figures/{name}" for name in sorted(_own_figures(results / "figures") ^ set(board.pictures))
    ]


def _own_figures(folder: Path) -> set[str]:
    """Names of the figures in a folder that a leaderboard wrote; pictures of other origin are left alone."""
    return {path.name for path in folder.glob("*") if _OWN_FIGURE.fullmatch(path.name)}


def _own_pages(results: Path) -> set[str]:
    """Names of the pages of runs in a results folder."""
    return {f"{FOLDER}/{path.name}" for path in (results / FOLDER).glob("*-*-*-*.html")}


def _stored(path: Path) -> str | None:
    return _comparable(path.read_text(encoding="utf-8")) if path.is_file() else None


def _comparable(text: str) -> str:
    """A text without what may differ: drawings, and links to answers that somebody drew round by round."""
    text = re.sub(r"<svg.*?</svg>", "<svg></svg>", text, flags=re.DOTALL)
    return re.sub(r'<ul class="timelines">.*?</ul>', "", text, flags=re.DOTALL)


def csv_text(board: Sequence[Section]) -> str:
    """The board as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(csv_rows(board))
    return buffer.getvalue()
