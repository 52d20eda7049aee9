"""The leaderboard in short for a README: its largest section as one table, and two figures.

The block stands between two comments that Markdown does not show, so a README can be brought up to date by a
command, and a test can tell whether it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from bench.errors import UserError
from bench.report.badge import badge
from bench.report.board import Apart, Ranked, Section, sections
from bench.report.document import chapter_of
from bench.report.entries import entries, read_runs
from bench.report.markdown import table_lines
from bench.report.tables import Table, number, times, titled

FIGURES = ("speedup", "acceptance")
"""Names of the figures to show, if the section has them."""
HEADER = ("rank", "method", "output", "decode speedup [95 %]", "acceptance length", "verdict")
_END = "<!-- end of excerpt -->"
_BLOCK = re.compile(r"<!-- excerpt of (?P<results>[^\n]*?): .*? -->\n.*?" + re.escape(_END), re.DOTALL)


def excerpt(results: Path, *, resamples: int = 10_000) -> str:
    """The block for a README that lies where the command is given: comments, sentence, table and figures.

    Raises:
        UserError: If there are no runs, or none has a rank.
    """
    found = sections(entries(read_runs(results), resamples=resamples))
    largest = max(found, key=lambda one: len(one.ranked))  # of equal ones the first
    if not largest.ranked:
        raise UserError(f"no run under {results} has a rank", f"see why: python -m bench.report {results}")
    where = PurePath(results).as_posix()
    lines = [f"<!-- excerpt of {where}: python -m bench.report excerpt {where} --into README.md -->"]
    lines += [*_table(largest), "", *_apart(largest.apart), *_figures(largest, where), _END]
    return "\n".join(lines)


def replace_block(text: str, block: str) -> str:
    """A text with its block replaced.

    Raises:
        UserError: If it has not exactly one.
    """
    count = len(_BLOCK.findall(text))
    if count != 1:
        raise UserError(
            f"the file holds {count} excerpts, it must hold one",
            "paste what the command prints without --into",
        )
    return _BLOCK.sub(lambda _: block, text)


def stored_block(text: str) -> tuple[Path, str] | None:
    """The results folder that a text holds an excerpt of, and the excerpt; None if there is none."""
    found = _BLOCK.search(text)
    return (Path(found["results"]), found[0]) if found else None


def _table(section: Section) -> list[str]:
    rows = tuple(_row(one) for one in section.ranked)
    told = f"{section.title}; {section.questions}."
    return [told, "", *table_lines(Table("", HEADER, rows))]


def _row(one: Ranked) -> tuple[str, ...]:
    summary = one.entry.summary
    output = "lossy" if summary.is_lossy else "the model's own"
    speed, length = times(summary.speedup.decode), number(summary.acceptance.pooled)
    return str(one.rank), titled(one), output, speed, length, badge(summary)


def _apart(apart: Sequence[Apart]) -> list[str]:
    if not apart:
        return []
    told = "; ".join(f"{one.label} ({one.reason})" for one in apart)
    return [f"Not ranked: {told}.", ""]


def _figures(section: Section, where: str) -> list[str]:
    chapter = chapter_of(section)
    shown = {one.name: one for one in chapter.pictures if one.name in FIGURES}
    return [
        f"![{shown[name].caption}]({where}/figures/{chapter.anchor}-{name}.png)"
        for name in FIGURES
        if name in shown
    ]
