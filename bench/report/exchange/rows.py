"""Results measured elsewhere: kept beside the records of a results folder, and shown apart from our own.

``<results>/elsewhere/<name>.json`` holds a row: the figures, and the SHA-256 of the file that they were read
from. They have no rank, no interval and no verdict: nothing here has checked them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from bench.compose.schema import NAME
from bench.errors import UserError
from bench.metrics.run_figures import number
from bench.records.files import write_text
from bench.report.document import Chapter, Part
from bench.report.exchange.results import Elsewhere
from bench.report.tables import Table
from bench.show.layout import text_table

FOLDER = "elsewhere"
SCHEMA_VERSION = 1
TITLE = "Measured elsewhere"
REMARKS = (
    "These figures were read from result files of other tools and were not measured by this harness: other "
    "machines, other questions, often many requests at a time, no baseline beside them, no check of the "
    "output. They have no rank and compare with nothing above.",
    "Acceptance lengths stay as each tool counts them, which the column 'counted as' says; ours count the "
    "prefill as a pass of one token. For ours by their counts: python -m bench.report table RUN --table "
    "acceptance.",
)
HEADER = (
    *("result", "tool", "model", "requests", "failed", "at a time", "acceptance length", "counted as"),
    *("accepted of drafted", "output tokens/s", "first token (ms)", "per token (ms)"),
)


def keep(row: Elsewhere, source: Path, results: Path) -> Path:
    """Store a row under a results folder; the path of its file.

    Raises:
        UserError: If its name is no file name or that of another result, or the folder cannot be written.
    """
    if not re.fullmatch(NAME, row.name):
        raise UserError(
            f"the name {row.name!r} may hold letters, digits, '.', '_' and '-' only", "give one with --name"
        )
    path = results / FOLDER / f"{row.name}.json"
    stored = {"schema_version": SCHEMA_VERSION, "source_sha256": _sha256(source), **asdict(row)}
    text = json.dumps(stored, indent=1, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise UserError(f"{path} holds another result", "give another name with --name, or delete it")
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}", "choose another folder with --into") from error
    return path


def kept_rows(results: Path) -> list[Elsewhere]:
    """The rows under a results folder, the published ones first, then by name.

    Raises:
        UserError: If a file is none.
    """
    folders = (results / "published" / FOLDER, results / FOLDER)
    return [_load(path) for folder in folders for path in sorted(folder.glob("*.json"))]


def elsewhere_text(rows: Sequence[Elsewhere]) -> str:
    """The rows for a terminal, each a block of its own, under a heading that says they are not ours."""
    blocks = []
    for row in rows:
        cells = dict(zip(HEADER, _cells(row), strict=True))
        blocks.append("\n".join(text_table(list(cells.items()))))
    return "\n\n".join([f"{TITLE.upper()}: not by this harness, not ranked, not checked", *blocks])


def elsewhere_table(rows: Sequence[Elsewhere]) -> Table:
    """The rows as a table of a board."""
    title = "Results of other tools, each by its own counts"
    return Table(title, HEADER, tuple(_cells(row) for row in rows), name=FOLDER)


def elsewhere_chapters(results: Path) -> list[Chapter]:
    """The chapter of a board, the last; none where nothing was imported.

    Raises:
        UserError: As `kept_rows`.
    """
    rows = kept_rows(results)
    if not rows:
        return []
    names = tuple(row.name for row in rows)
    return [
        Chapter(
            anchor=FOLDER,
            title=TITLE,
            setting="measured elsewhere",
            questions=f"{len(rows)} results of other tools",
            subtitle="Nothing in this section was measured by this harness.",
            remarks=REMARKS,
            parts=(Part("Results", (elsewhere_table(rows),)),),
            records=names,
        )
    ]


def _cells(row: Elsewhere) -> tuple[str, ...]:
    return (
        row.name,
        row.tool,
        row.model or "-",
        str(row.requests),
        str(row.failed),
        number(row.concurrency, ".0f"),
        number(row.acceptance_length),
        row.counted if row.acceptance_length is not None else "-",
        number(row.draft_acceptance, ".1%"),
        number(row.tokens_per_s, ".1f"),
        number(row.first_token_ms, ".1f"),
        number(row.per_token_ms, ".2f"),
    )


def _load(path: Path) -> Elsewhere:
    fix = "import its result again: python -m bench.report import FILE --into FOLDER"
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
        if stored.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"schema_version must be {SCHEMA_VERSION}, got {stored.get('schema_version')}")
        return Elsewhere(**{field.name: stored[field.name] for field in fields(Elsewhere)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no imported result: {error!r}", fix) from error


def _sha256(source: Path) -> str:
    """Of the file, or of the files of a folder by name."""
    files = [source] if source.is_file() else sorted(path for path in source.iterdir() if path.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
