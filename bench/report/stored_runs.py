"""The runs under a results folder, as a report reads them, and what each was asked.

Which folders: ``<results>/published/runs`` is read first, then ``<results>/runs``, and everything is written
under ``<results>``. So ``python -m bench.report`` shows a user's own runs beside the published ones, and
``python -m bench.report results/published`` rebuilds the committed leaderboard from published records
alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bench import PACKAGE_PREFIX, PACKAGE_ROOT
from bench.errors import UserError
from bench.prove.certificates import badge_of
from bench.records.model import Run, Sample
from bench.records.store import load_run, load_samples
from bench.records.views import of_method, samples_of


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run of one method as it lies on disk, or one method's part of a run of several."""

    run: Run
    samples: tuple[Sample, ...]
    is_published: bool = False
    evidence: str | None = None
    """What certificates say of its output, see `bench.prove.certificates.badge_of`."""
    label: str = ""
    """Which method it is of a run of several; empty for a run of one."""

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
    runs, unreadable = list[StoredRun](), {}
    for root, is_published in ((results / "published", True), (results, False)):
        for path in sorted((root / "runs").glob("*/run.json")):
            try:
                runs += _read(path.parent, root, is_published)
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
    """A run by its folder; of a run of several methods, ``FOLDER:METHOD`` is one of them.

    Raises:
        UserError: If it is no run, holds no samples, or holds several methods of which none is named.
    """
    folder, label = folder_and_method(folder)
    run, samples = load_whole(folder)
    if run.methods and not label:
        names = ", ".join(f"{folder.name}:{method}" for method in run.methods)
        raise UserError(f"{folder} is a run of {len(run.methods)} methods", f"name one: {names}")
    part, own = part_of(run, samples, label)
    return StoredRun(part, own, label=label if run.methods else "")


def part_of(run: Run, samples: Sequence[Sample], label: str) -> tuple[Run, tuple[Sample, ...]]:
    """One method's part of a run of several; the run itself where there is no label.

    Raises:
        UserError: If the run has no such method.
    """
    if not label or (not run.methods and label == run.method):
        return run, tuple(samples)
    return of_method(run, label), tuple(samples_of(samples, label))


def folder_and_method(given: Path) -> tuple[Path, str]:
    """The folder and the method that ``FOLDER`` or ``FOLDER:METHOD`` names; the method may be empty.

    A bare run id is looked for under ``results`` as well.
    """
    name, _, label = given.name.partition(":")
    folder = given if given.is_dir() else given.with_name(name)
    if folder.parent == Path() and not folder.is_dir():
        places = [root / "runs" / name for root in (Path("results"), Path("results/published"))]
        folder = next((place for place in places if place.is_dir()), folder)
    return folder, "" if given.is_dir() else label


def load_whole(folder: Path) -> tuple[Run, tuple[Sample, ...]]:
    """A run with its samples, of every method and arm.

    Raises:
        UserError: If it is no run, or holds no samples.
    """
    run = load_run(folder)
    samples = recounted(run, load_samples(folder))
    if not samples:
        raise UserError(f"{folder} holds no samples", "measure it first: the command that made it resumes")
    return run, samples


def read_whole_run(folder: Path) -> list[StoredRun]:
    """A run by its folder, every method of a run of several as a run of its own, as `read_runs` reads them.

    Raises:
        UserError: As `read_run`, except that no method need be named.
    """
    if not folder.is_dir():
        return [read_run(folder)]
    runs = _read(folder, folder.absolute().parent.parent, is_published=False)
    if not any(stored.samples for stored in runs):
        raise UserError(f"{folder} holds no samples", "measure it first: the command that made it resumes")
    return runs


def _read(folder: Path, results: Path, is_published: bool) -> list[StoredRun]:
    """A run, or every method of a run of several as a run of its own."""
    run = load_run(folder)
    samples = recounted(run, load_samples(folder))
    if not run.methods:
        return [StoredRun(run, samples, is_published, badge_of(run, results))]
    parts = {label: of_method(run, label) for label in run.methods}
    return [
        StoredRun(part, tuple(samples_of(samples, label)), is_published, badge_of(part, results), label)
        for label, part in parts.items()
    ]


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


def template_of(identity: Mapping[str, Any]) -> str:
    """Hash of the chat template, and what it was given with ``chat.*``."""
    return _joined(identity.get("template", ""), identity.get("chat"))


def questions_of(identity: Mapping[str, Any]) -> str:
    """Hash of the questions, and how their file was read where that was set."""
    task = identity.get("task", {})
    read = {key: task[key] for key in ("column", "format") if task.get(key) is not None}
    return _joined(identity.get("questions", ""), read)


def _joined(digest: object, more: Mapping[str, Any] | None) -> str:
    return f"{digest} {json.dumps(more, sort_keys=True)}" if more else str(digest)


@cache
def _length(tokenizer: Path, text: str) -> int:
    return len(_tokenizer(tokenizer).encode(text).ids)


@cache
def _tokenizer(file: Path) -> Tokenizer:
    return Tokenizer.from_file(str(file))
