"""The result of a run that is complete, printed from its records without torch, model or tokenizer.

`finished` shows only what a start that measures would show as well. Where anything differs from the stored
run, or is not known without torch, it returns None, and `bench.measure.runner` loads the model and says what
is the matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.compose.settings import Settings
from bench.errors import UserError
from bench.measure.processor import is_same_processor
from bench.outline import Unclear
from bench.outline.run import RunOutline, outline_of
from bench.prove.source import source_hash
from bench.records.model import ARENA, Run, Sample, canonical
from bench.records.store import load_run, load_samples
from bench.show.result import SweepRow, result_of
from bench.tasks.task import LoadedTask


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run: its table as plain text, its folder, and how many samples failed.

    Args:
        rows: Its lines in the table that ends a sweep, see `bench.show.result.Result`.
    """

    table: str
    run_dir: Path
    failures: int
    rows: tuple[SweepRow, ...] = ()


def outcome_of(settings: Settings, run: Run, samples: Sequence[Sample], folder: Path) -> Outcome:
    """What a command prints about a run."""
    failures = sum(sample.error is not None for sample in samples)
    shown = result_of(run, samples, settings.results_dir, settings.measure.level)
    return Outcome(shown.table, folder, failures, shown.rows)


def finished(settings: Settings, task: LoadedTask | None = None) -> Outcome | None:
    """The outcome of a run that this machine and code have measured completely; None for any other.

    Args:
        settings: Of the run.
        task: Its prompts, if they have been read.
    """
    name = ARENA if settings.is_arena else settings.method.name
    names = f"{name}-{settings.task.name}-{settings.model.name}-*"
    if not any((settings.results_dir / "runs").glob(names)):
        return None
    try:
        outline = outline_of(settings, task)
        folder = settings.results_dir / "runs" / outline.run_id
        if not (folder / "run.json").is_file():
            return None
        run, samples = load_run(folder), load_samples(folder)
    except (Unclear, UserError):
        return None
    if not _is_complete(settings, outline, run, samples) or not _is_from_here(
        settings, outline, run, samples
    ):
        return None
    return outcome_of(settings, run, samples, folder)


def _is_complete(settings: Settings, outline: RunOutline, run: Run, samples: Sequence[Sample]) -> bool:
    """Whether every sample is there, numbered and counted as it would be today."""
    repeats, sessions = settings.measure.repeats, settings.measure.sessions
    return (
        canonical(run.identity) == canonical(outline.identity)
        and outline.keys <= {sample.key for sample in samples}
        and all(sample.error is None and sample.text_tokens is not None for sample in samples)
        and all(sessions == 1 or sample.session == sample.repeat // repeats for sample in samples)
    )


def _is_from_here(settings: Settings, outline: RunOutline, run: Run, samples: Sequence[Sample]) -> bool:
    """Whether this machine and the code as it is now decoded all samples."""
    attempts = {sample.attempt for sample in samples}
    if not attempts <= set(range(len(run.attempts))):
        return False
    blocks = [run.attempts[number] for number in attempts]
    if not all(is_same_processor(block) and block.get("dtype") == outline.dtype for block in blocks):
        return False
    tiers = {str(block.get("tier")) for block in blocks}
    if len(tiers) != 1:
        return False
    (tier,) = tiers
    sources = {label: source_hash(method.target, tier) for label, method in settings.methods.items()}
    return {block.get("source") for block in blocks} == {joined(sources)}


def joined(sources: Mapping[str, str]) -> str:
    """One hash of the code of all methods of a run: a method's own, where there is only one."""
    hashes = sorted(sources.values())
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]
