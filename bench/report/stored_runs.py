"""The runs under a results folder, as a report reads them.

Which folders: ``<results>/published/runs`` is read first, then ``<results>/runs``, and everything is written
under ``<results>``. So ``python -m bench.report`` shows a user's own runs beside the published ones, and
``python -m bench.report results/published`` rebuilds the committed leaderboard from published records
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from bench import PACKAGE_PREFIX, PACKAGE_ROOT
from bench.errors import UserError
from bench.prove.certificates import badge_of
from bench.records.model import Run, Sample
from bench.records.store import load_run, load_samples


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as it lies on disk."""

    run: Run
    samples: tuple[Sample, ...]
    is_published: bool = False
    evidence: str | None = None
    """What certificates say of its output, see `bench.prove.certificates.badge_of`."""

    @property
    def subtasks(self) -> tuple[str, ...]:
        """Subtasks it holds samples of, in order of appearance."""
        return tuple(dict.fromkeys(sample.subtask for sample in self.samples))


@dataclass(frozen=True, slots=True)
class ReadRuns:
    """The runs under a results folder.

    Args:
        runs: The published ones first, then by run id.
        unreadable: What is wrong with each run that could not be read, by folder.
    """

    runs: tuple[StoredRun, ...]
    unreadable: Mapping[Path, UserError]


def read_runs(results: Path) -> ReadRuns:
    """Every run under a results folder; a damaged one does not hide the others.

    Raises:
        UserError: If there are none, or none that can be read.
    """
    runs, unreadable = [], {}
    for root, is_published in ((results / "published", True), (results, False)):
        for path in sorted((root / "runs").glob("*/run.json")):
            try:
                runs.append(_read(path.parent, root, is_published))
            except UserError as mistake:
                unreadable[path.parent] = mistake
    if unreadable and not runs:
        raise next(iter(unreadable.values()))
    if not runs:
        raise UserError(
            f"{results / 'runs'} holds no runs", "measure one first: python -m bench method=kangaroo"
        )
    return ReadRuns(tuple(runs), unreadable)


def read_run(folder: Path) -> StoredRun:
    """A run by its folder.

    Raises:
        UserError: If it is no run, or holds no samples.
    """
    stored = StoredRun(run := load_run(folder), recounted(run, load_samples(folder)))
    if not stored.samples:
        raise UserError(f"{folder} holds no samples", "measure it first: the command that made it resumes")
    return stored


def _read(folder: Path, results: Path, is_published: bool) -> StoredRun:
    run = load_run(folder)
    return StoredRun(run, recounted(run, load_samples(folder)), is_published, badge_of(run, results))


def recounted(run: Run, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples, with the length of every answer's text in tokens where records of older code lack it.

    Only for models whose tokenizer is shipped with this package: of others, the figure stays unknown.
    """
    path = str((run.config.get("model") or {}).get("path"))
    file = PACKAGE_ROOT / path.removeprefix(PACKAGE_PREFIX) / "tokenizer.json"
    is_known = all(sample.text_tokens is not None or sample.error is not None for sample in samples)
    if is_known or not path.startswith(PACKAGE_PREFIX) or not file.is_file():
        return tuple(samples)
    return tuple(
        sample
        if sample.text_tokens is not None or sample.error is not None
        else replace(sample, text_tokens=_length(file, sample.text))
        for sample in samples
    )


@cache
def _length(tokenizer: Path, text: str) -> int:
    return len(_tokenizer(tokenizer).encode(text).ids)


@cache
def _tokenizer(file: Path) -> Tokenizer:
    return Tokenizer.from_file(str(file))
