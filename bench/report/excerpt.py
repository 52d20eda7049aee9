"""The leaderboard in short for a README: one section as a table, and two figures.

The section is the largest run of several methods that has ranks, or else the largest section.

The block stands between two comments that Markdown does not show, so a command can bring a README up to date,
and a test can tell whether it is.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from bench.errors import UserError
from bench.metrics.run_figures import number, speedup
from bench.report.board import Ranked, Section, sections
from bench.report.entries import entries
from bench.report.figure_data import pictures
from bench.report.stored_runs import read_runs
from bench.report.tables import method_cell, output_cell
from bench.report.words import session_words
from bench.show.layout import markdown_table

FIGURES = ("overall", "acceptance")
"""Names of the figures to show, if the section has them."""
HEADER = ("rank", "method", "output", "decode speedup [95 %]", "acceptance length", "verdict")
_END = "<!-- end of excerpt -->"
_BLOCK = re.compile(r"<!-- excerpt of (?P<results>[^\n]*?): .*? -->\n.*?" + re.escape(_END), re.DOTALL)


def excerpt(results: Path) -> str:
    """The block for a README in the folder where the command is given: comments, sentence, table and figures.

    Raises:
        UserError: If there are no runs, or none has a rank.
    """
    board = sections(entries(read_runs(results).runs))
    largest = max(board, key=lambda section: (bool(section.arena and section.ranked), len(section.ranked)))
    if not largest.ranked:
        raise UserError(f"no run under {results} has a rank", f"see why: python -m bench.report {results}")
    where = PurePath(results).as_posix()
    lines = [f"<!-- excerpt of {where}: python -m bench.report excerpt {where} --into README.md -->"]
    lines += [f"{largest.title}; {largest.questions}{session_words(largest)}.", ""]
    lines += [*markdown_table(HEADER, [_row(row) for row in largest.ranked]), ""]
    return "\n".join([*lines, *_unranked(largest), *_figures(largest, where), _END])


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
    match = _BLOCK.search(text)
    return (Path(match["results"]), match[0]) if match else None


def _row(row: Ranked) -> tuple[str, ...]:
    summary = row.entry.summary
    output = "lossy" if summary.is_lossy else "the model's own"
    speed, length = speedup(summary.speedup.decode), number(summary.acceptance.pooled)
    return str(row.rank), method_cell(row), output, speed, length, output_cell(summary)


def _unranked(section: Section) -> list[str]:
    reasons = "; ".join(f"{row.label} ({row.reason})" for row in section.unranked)
    return [f"Not ranked: {reasons}.", ""] if reasons else []


def _figures(section: Section, where: str) -> list[str]:
    captions = {picture.name: picture.caption for picture in pictures(section)}
    return [
        f"![{captions[name]}]({where}/figures/{section.anchor}-{name}.png)"
        for name in FIGURES
        if name in captions
    ]
