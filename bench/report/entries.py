"""From runs to the entries of a leaderboard: what may stand side by side, and how runs of a method combine.

Folder rule: ``<results>/published/runs`` is read first, then ``<results>/runs``, and everything is written
under ``<results>``. So ``python -m bench.report`` shows a user's own runs beside the published ones, and
``python -m bench.report results/published`` rebuilds the committed leaderboard from published records
alone.

Combining rule: a run of several subtasks is an entry by itself. Runs of one subtask each, with equal method
settings, weights and question file, are pooled into one entry: their questions are put together as if one run
had asked them all; of two runs of the same subtask the one that asked more counts, and repeats that not every
pooled run has are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.metrics.run_figures import Subtask
from bench.metrics.summary import Summary, summarise
from bench.prove.certificates import badge_of
from bench.records.model import Arm, Run, Sample
from bench.records.store import load_run, load_samples
from bench.tasks.spec_bench import QUESTIONS_PER_SUBTASK


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as it lies on disk."""

    run: Run
    samples: tuple[Sample, ...]
    is_published: bool = False
    badge: str | None = None
    """What certificates say of its output, see `bench.prove.certificates.badge_of`."""

    @property
    def subtasks(self) -> tuple[str, ...]:
        """Subtasks it holds samples of, in order of appearance."""
        return tuple(dict.fromkeys(one.subtask for one in self.samples))


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """All that must be equal before speeds may be compared, but for the set of questions."""

    model: str
    device: str
    dtype: str
    sampling: str
    prompts: str
    max_new_tokens: int
    history: str
    model_weights: str
    template: str
    questions: str
    runtime: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One method in one setting: a row of the leaderboard.

    Args:
        setting: What it was measured under.
        method: Name of its yaml file.
        params: Its settings.
        weights: Hash of its trained modules, where it has any.
        stored: The runs it consists of.
        samples: Their samples, as far as they count.
        summary: What they say.
    """

    setting: Setting
    method: str
    params: Mapping[str, Any]
    weights: str | None
    stored: tuple[StoredRun, ...]
    samples: tuple[Sample, ...]
    summary: Summary

    @property
    def asked(self) -> frozenset[str]:
        """Ids of the questions asked, the failed ones included."""
        return frozenset(one.prompt_id for one in self.samples)

    @property
    def planned(self) -> int | None:
        """Questions that the runs were told to ask; None where the records do not tell."""
        counts = [_planned(one) for one in self.stored]
        return sum(one for one in counts if one is not None) if None not in counts else None

    @property
    def is_published(self) -> bool:
        """Whether it comes from the published records."""
        return self.stored[0].is_published

    @property
    def is_partial(self) -> bool:
        """Whether questions of its subtasks were left out on purpose."""
        return any(bool(one.run.labels.get("partial")) for one in self.stored)

    @property
    def is_gpu_shared(self) -> bool:
        """Whether other work was seen on the GPU at a start that measured something."""
        return any(
            bool(one.run.attempts[number].get("gpu_shared"))
            for one in self.stored
            for number in {sample.attempt for sample in one.samples}
            if number < len(one.run.attempts)
        )

    @property
    def subtasks(self) -> dict[str, Subtask]:
        """Figures by subtask; a run of a single subtask has its overall ones."""
        if self.summary.subtasks:
            return {one.name: one for one in self.summary.subtasks}
        names = {one.subtask for one in self.samples}
        if len(names) != 1:
            return {}
        return {name: Subtask(name, self.summary.speedup, self.summary.acceptance.pooled) for name in names}

    @property
    def peak_memory_bytes(self) -> int | None:
        """Highest peak over the method's samples; None where it cannot be measured (on a CPU)."""
        peaks = [one.peak_memory_bytes for one in self.samples if one.arm is Arm.METHOD]
        return max((one for one in peaks if one is not None), default=None)

    @property
    def draft_parameters(self) -> int | None:
        """Parameters the method adds to the target, where the run is labelled with them."""
        found = self.summary.run.labels.get("draft parameters")
        return int(found) if found is not None else None


def read_runs(results: Path) -> list[StoredRun]:
    """Every run under a results folder: the published ones first, then by run id.

    Raises:
        UserError: If there are none, or a record is corrupt.
    """
    found = [
        _read(path.parent, root, is_published)
        for root, is_published in ((results / "published", True), (results, False))
        for path in sorted((root / "runs").glob("*/run.json"))
    ]
    if not found:
        raise UserError(
            f"{results / 'runs'} holds no runs", "measure one first: python -m bench method=kangaroo"
        )
    return found


def _read(folder: Path, results: Path, is_published: bool) -> StoredRun:
    run = load_run(folder)
    return StoredRun(run, tuple(load_samples(folder)), is_published, badge_of(run, results))


def entries(stored: Sequence[StoredRun], *, resamples: int = 10_000) -> list[Entry]:
    """One entry per method variant and setting, by the combining rule; runs without samples have none."""
    groups: dict[tuple[Any, ...], list[StoredRun]] = {}
    for one in stored:
        if one.samples:
            alone = one.run.run_id if len(one.subtasks) != 1 else ""
            key = (setting_of(one), _variant(one.run), one.is_published, alone)
            groups.setdefault(key, []).append(one)
    return [_entry(key[0], _largest(group), resamples) for key, group in groups.items()]


def setting_of(stored: StoredRun) -> Setting:
    """The setting of a run with samples."""
    run, identity = stored.run, stored.run.identity
    number = next((one.attempt for one in stored.samples if one.error is None), stored.samples[-1].attempt)
    attempt = run.attempts[number] if number < len(run.attempts) else {}
    runtime = {
        key: value
        for key, value in {
            **identity.get("runtime", {}),
            "context": identity.get("model", {}).get("context"),
        }.items()
        if key not in ("device", "dtype", "threads")
    }
    return Setting(
        model=run.model,
        device=str(attempt.get("device", "unknown device")),
        dtype=str(attempt.get("dtype", "unknown dtype")),
        sampling=sampling_text(identity.get("sampling", {})),
        prompts=str(run.labels.get("prompts", "unknown")),
        max_new_tokens=int(identity.get("max_new_tokens", 0)),
        history=str(identity.get("history", "free")),
        model_weights=str(identity.get("model_weights", "")),
        template=str(identity.get("template", "")),
        questions=str(identity.get("questions", "")),
        runtime=json.dumps(runtime, sort_keys=True),
    )


def sampling_text(sampling: Mapping[str, Any]) -> str:
    """``greedy``, or the parameters of sampling that are not neutral."""
    temperature, top_k, top_p = (sampling.get(key, 0) for key in ("temperature", "top_k", "top_p"))
    if not temperature:
        return "greedy"
    parts = [f"temperature {temperature:g}"]
    parts += [f"top-k {top_k}"] if top_k else []
    parts += [f"top-p {top_p:g}"] if top_p and top_p < 1 else []
    return ", ".join(parts)


def _variant(run: Run) -> str:
    settings = {
        "method": run.method,
        "params": run.identity.get("method"),
        "weights": run.identity.get("method_weights"),
    }
    return json.dumps(settings, sort_keys=True)


def _largest(group: Sequence[StoredRun]) -> tuple[StoredRun, ...]:
    """Of runs of one subtask each, the one per subtask that asked most; the later run id wins a tie."""
    best: dict[tuple[str, ...], StoredRun] = {}
    for one in sorted(group, key=lambda one: (len({s.prompt_id for s in one.samples}), one.run.run_id)):
        best[one.subtasks] = one
    return tuple(sorted(best.values(), key=lambda one: one.run.run_id))


def _entry(setting: Setting, stored: tuple[StoredRun, ...], resamples: int) -> Entry:
    samples = pool(stored)
    first = stored[0].run
    run = replace(first, task=" + ".join(dict.fromkeys(one.run.task for one in stored)))
    params = {
        key: value
        for key, value in first.identity.get("method", {}).items()
        if key not in ("target", "weights")
    }
    return Entry(
        setting=setting,
        method=first.method,
        params=params,
        weights=first.identity.get("method_weights"),
        stored=stored,
        samples=samples,
        summary=summarise(run, samples, resamples=resamples, seed=_seed(first), badge=_badge(stored)),
    )


def _seed(run: Run) -> int:
    return int(run.identity.get("seed", 0))


def _badge(stored: Iterable[StoredRun]) -> str | None:
    """What is said of all of them, or None."""
    found = {one.badge for one in stored}
    return found.pop() if len(found) == 1 else None


def pool(stored: Iterable[StoredRun]) -> tuple[Sample, ...]:
    """Samples of runs on different questions as of one run: the repeats that all of them have."""
    parts = [one.samples for one in stored]
    common = set.intersection(*({one.repeat for one in part} for part in parts))
    return tuple(one for part in parts for one in part if one.repeat in common)


def _planned(stored: StoredRun) -> int | None:
    task = stored.run.identity.get("task", {})
    if task.get("ids"):
        return len(task["ids"])
    subtasks, limit = task.get("subtasks"), task.get("limit")
    has_known_size = stored.run.labels.get("prompts") in ("official", "builtin")
    total = QUESTIONS_PER_SUBTASK * len(subtasks or range(6)) if has_known_size else None
    return min((one for one in (limit, total) if one is not None), default=None)
