"""Damaged lines of a record file: they are kept aside, and what they held is measured again."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from bench.records.files import replacing

log = logging.getLogger(__name__)

DAMAGED_FILE = "samples.damaged.jsonl"
"""Beside the record file: the damaged lines that were set aside, unchanged."""


def set_aside(path: Path, problems: Mapping[int, str]) -> None:
    """Move the damaged lines of a record file to `DAMAGED_FILE`; a crash in between loses none of them.

    Args:
        path: The record file.
        problems: What is wrong with each damaged line, by its number.

    Raises:
        OSError: If a file cannot be written.
    """
    aside = path.with_name(DAMAGED_FILE)
    with (
        path.open("rb") as lines,
        aside.open("ab") as kept,
        replacing(path) as fresh,
        fresh.open("wb") as whole,
    ):
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n"):
                (kept if number in problems else whole).write(line)
        kept.flush()
        os.fsync(kept.fileno())
    for problem in problems.values():
        log.warning("%s; it is kept in %s, and what it held is measured again", problem, aside)
