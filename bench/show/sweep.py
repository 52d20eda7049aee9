"""The table that ends a sweep: a line per run and method, what failed, and the command for the report.

Every job of a sweep leaves its lines in Hydra's folder of that job, whichever process ran it; the process
that started the sweep reads them all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from bench.show.layout import text_table

HEADER = ("method", "task", "model", "decode speedup", "length", "output", "alarms")
ROWS_FILE = "rows.json"
_OVERRIDES = Path(".hydra") / "overrides.yaml"


def store_rows(folder: Path, rows: Sequence[Sequence[str]], results_dir: Path) -> None:
    """Leave a job's lines in its folder.

    Args:
        folder: Hydra's folder of the job.
        rows: A line per method, the cells of `HEADER`.
        results_dir: Where the run's records lie.
    """
    text = json.dumps({"rows": [list(row) for row in rows], "results_dir": str(results_dir)})
    (folder / ROWS_FILE).write_text(text, encoding="utf-8")


def sweep_end(jobs: Sequence[Path], failed: Sequence[Path]) -> str:
    """The table as text; empty where no job measured anything.

    Args:
        jobs: Hydra's folders of all jobs, in their order.
        failed: Those of the jobs that failed.
    """
    stored = [
        json.loads((job / ROWS_FILE).read_text(encoding="utf-8"))
        for job in jobs
        if (job / ROWS_FILE).is_file()
    ]
    rows = [tuple(row) for job in stored for row in job["rows"]]
    if not rows:
        return ""
    folders = dict.fromkeys(job["results_dir"] for job in stored)
    lines = [f"failed: {_overrides(job)}" for job in failed]
    lines += [f"the report of all runs: python -m bench.report {folder}" for folder in folders]
    return "\n".join(["", *text_table([HEADER, *rows]), *lines])


def _overrides(job: Path) -> str:
    """What sets a job apart, as it was given on the command line."""
    path = job / _OVERRIDES
    return " ".join(map(str, OmegaConf.load(path))) if path.is_file() else f"job {job.name}"
