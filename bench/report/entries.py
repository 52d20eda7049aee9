"""From runs to the entries of a leaderboard: which results may be compared, and how runs of a method combine.

A run of several methods makes one entry per method, and never combines with another run.

How runs of one method combine: a run of several subtasks is an entry by itself. Runs of one subtask each,
with equal method settings, weights and question file, are pooled into one entry, as if one run had asked all
of their questions. Of two runs of the same subtask the one that asked more counts, and repeats that not every
pooled run has are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.metrics.run_figures import Subtask, Summary
from bench.metrics.summary import summarise
from bench.records.model import Arm, Run, Sample, Verdict
from bench.report.stored_runs import StoredRun, questions_of, template_of
from bench.tasks.spec_bench import QUESTIONS_PER_SUBTASK


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """All that must be equal before speeds may be compared, except the set of questions."""

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
    """The runtime's settings as JSON, without device, dtype and threads."""
    torch: str = field(repr=False)
    """Version of torch, and of CUDA where it has one."""
    tuned: bool = field(repr=False)
    """Whether methods ran with settings that `bench.tune` found, in the place of their published ones."""
    waiting: str = field(repr=False)
    """How idle threads wait on a CPU (``OMP_WAIT_POLICY``), which changes the times of small models."""

    def option(self, name: str) -> str:
        """A setting of the runtime; empty if the record does not say or it is the usual one."""
        return str(json.loads(self.runtime).get(name) or "")


@dataclass(frozen=True, slots=True)
class Entry:
    """One method in one setting: a row of the leaderboard.

    Args:
        setting: What it was measured under.
        method: Name of its yaml file.
        params: Its settings.
        seed: Of its random numbers.
        weights: Hash of its trained modules, where it has any.
        stored: The runs it consists of.
        samples: Their samples, as far as they count.
        summary: All figures of these samples.
    """

    setting: Setting
    method: str
    params: Mapping[str, Any]
    seed: int
    weights: str | None
    stored: tuple[StoredRun, ...]
    samples: tuple[Sample, ...]
    summary: Summary

    @property
    def arena(self) -> str:
        """Id of the run of several methods that it is a part of; empty for runs of one method."""
        return self.stored[0].run.run_id if self.stored[0].label else ""

    @property
    def asked(self) -> frozenset[str]:
        """Ids of the questions asked, the failed ones included."""
        return frozenset(sample.prompt_id for sample in self.samples)

    @property
    def planned(self) -> int | None:
        """Questions that the runs were to ask; None where the records do not say."""
        counts = [_planned(stored) for stored in self.stored]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def is_published(self) -> bool:
        """Whether it comes from the published records."""
        return self.stored[0].is_published

    @property
    def is_partial(self) -> bool:
        """Whether questions of its subtasks were left out on purpose."""
        return any(bool(stored.run.labels.get("partial")) for stored in self.stored)

    @property
    def is_gpu_shared(self) -> bool:
        """Whether other work was seen on the GPU at a start that measured something."""
        return any(
            bool(stored.run.attempts[number].get("gpu_shared"))
            for stored in self.stored
            for number in {sample.attempt for sample in stored.samples}
            if number < len(stored.run.attempts)
        )

    @property
    def subtasks(self) -> dict[str, Subtask]:
        """Figures by subtask; of a run of a single subtask they are the overall ones."""
        if self.summary.subtasks:
            return {subtask.name: subtask for subtask in self.summary.subtasks}
        names = {sample.subtask for sample in self.samples}
        if len(names) != 1:
            return {}
        acceptance = self.summary.acceptance
        lengths = acceptance.pooled, acceptance.spec_bench
        return {name: Subtask(name, self.summary.speedup, *lengths) for name in names}

    @property
    def peak_memory_bytes(self) -> int | None:
        """Highest peak over the method's samples; None where it cannot be measured (on a CPU)."""
        peaks = [sample.peak_memory_bytes for sample in self.samples if sample.arm is Arm.METHOD]
        return max((peak for peak in peaks if peak is not None), default=None)

    @property
    def draft_parameters(self) -> int | None:
        """Parameters that the method adds to the target, where the run is labelled with them."""
        count = self.summary.run.labels.get("draft parameters")
        return int(count) if count is not None else None


def entries(runs: Sequence[StoredRun]) -> list[Entry]:
    """One entry per method variant and setting, combined as this module's docstring says.

    Runs without samples make no entry.
    """
    groups: dict[tuple[Any, ...], list[StoredRun]] = {}
    for stored in runs:
        if stored.samples:
            is_whole = stored.label or len(stored.subtasks) != 1
            own_entry = f"{stored.run.run_id} {stored.label}" if is_whole else ""
            key = (setting_of(stored), _variant(stored.run), stored.is_published, own_entry)
            groups.setdefault(key, []).append(stored)
    return [_entry(key[0], _largest(group)) for key, group in groups.items()]


def setting_of(stored: StoredRun) -> Setting:
    """The setting of a run with samples."""
    run, identity = stored.run, stored.run.identity
    good_attempts = (sample.attempt for sample in stored.samples if sample.error is None)
    number = next(good_attempts, stored.samples[-1].attempt)
    attempt = run.attempts[number] if number < len(run.attempts) else {}
    runtime = {**identity.get("runtime", {}), "context": identity.get("model", {}).get("context")}
    versions, cpu = attempt.get("versions") or {}, attempt.get("cpu") or {}
    others = {key: value for key, value in runtime.items() if key not in ("device", "dtype", "threads")}
    return Setting(
        model=run.model,
        device=str(attempt.get("device", "unknown device")),
        dtype=str(attempt.get("dtype", "unknown dtype")),
        sampling=sampling_text(identity.get("sampling", {})),
        prompts=str(run.labels.get("prompts", "unknown")),
        max_new_tokens=int(identity.get("max_new_tokens", 0)),
        history=str(identity.get("history", "free")),
        model_weights=str(identity.get("model_weights", "")),
        template=template_of(identity),
        questions=questions_of(identity),
        runtime=json.dumps(others, sort_keys=True),
        torch=" with CUDA ".join(str(part) for part in (versions.get("torch"), versions.get("cuda")) if part),
        tuned=bool(run.config.get("tuned")),
        waiting=str(cpu.get("omp_wait_policy") or ""),
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
        "seed": run.identity.get("seed"),
    }
    return json.dumps(settings, sort_keys=True)


def _largest(group: Sequence[StoredRun]) -> tuple[StoredRun, ...]:
    """Of runs of one subtask each, the one per subtask that asked most; the later run id wins a tie."""
    best: dict[tuple[str, ...], StoredRun] = {}
    for stored in sorted(group, key=_size):
        best[stored.subtasks] = stored
    return tuple(sorted(best.values(), key=lambda stored: stored.run.run_id))


def _size(stored: StoredRun) -> tuple[int, str]:
    return len({sample.prompt_id for sample in stored.samples}), stored.run.run_id


def _entry(setting: Setting, stored: tuple[StoredRun, ...]) -> Entry:
    samples = pool(stored)
    first = stored[0].run
    run = replace(first, task=" + ".join(dict.fromkeys(part.run.task for part in stored)))
    settings, unshown = first.identity.get("method", {}), ("target", "weights", "frequent_tokens")
    evidence = {part.evidence for part in stored}
    return Entry(
        setting=setting,
        method=first.method,
        params={key: value for key, value in settings.items() if key not in unshown},
        seed=int(first.identity.get("seed", 0)),
        weights=first.identity.get("method_weights"),
        stored=stored,
        samples=samples,
        summary=summarise(
            run,
            samples,
            evidence=evidence.pop() if len(evidence) == 1 else None,  # only what holds for all of them
        ),
    )


def pool(stored: Iterable[StoredRun]) -> tuple[Sample, ...]:
    """Samples of runs on different questions as those of one run: only the repeats that all of them have."""
    parts = [part.samples for part in stored]
    common = set.intersection(*({sample.repeat for sample in samples} for samples in parts))
    return tuple(sample for samples in parts for sample in samples if sample.repeat in common)


def _planned(stored: StoredRun) -> int | None:
    task = stored.run.identity.get("task", {})
    if task.get("ids"):
        return len(task["ids"])
    subtasks, limit = task.get("subtasks"), task.get("limit")
    per_subtask = QUESTIONS_PER_SUBTASK.get(str(stored.run.labels.get("prompts")))
    total = per_subtask * len(subtasks or range(6)) if per_subtask else None
    return min((count for count in (limit, total) if count is not None), default=None)


def reasons_unranked(entry: Entry) -> list[str]:
    """Why an entry gets no rank; empty if it gets one."""
    if not any(sample.arm is Arm.METHOD for sample in entry.samples):
        return ["the baseline alone"]
    return [*_gaps(entry), *_doubts(entry)]


def _gaps(entry: Entry) -> list[str]:
    """What was not measured, or not in full."""
    summary = entry.summary
    reasons = []
    if summary.failures:
        reasons.append(f"{sum(summary.failures.values())} samples failed ({next(iter(summary.failures))})")
    if is_unfinished(entry):
        reasons.append(f"unfinished: {len(entry.asked)} of {entry.planned} questions")
    elif summary.excluded and not summary.failures:
        reasons.append(f"unfinished: {len(summary.excluded)} questions are incomplete")
    if summary.speedup.decode is None or not summary.speedup.decode.is_known:
        reasons.append("no interval")
    return reasons


def _doubts(entry: Entry) -> list[str]:
    """Why what was measured is not to be believed."""
    summary = entry.summary
    reasons = []
    if summary.run.labels.get("cost only"):
        reasons.append("cost only: its acceptance was given, not measured")
    if summary.is_valid is False and not entry.arena:  # such a run is judged as a whole
        reasons.append("the A/A control fails: the baseline differs from itself")
    if summary.is_valid is None and not entry.arena:
        reasons.append("no A/A control: it needs 2 questions and 2 repeats")
    if entry.is_gpu_shared:
        reasons.append("other work was on the GPU")
    if not summary.is_lossy and (count := summary.verdicts[Verdict.VIOLATION]):
        reasons.append(f"{count} outputs violate the promise to be the model's own")
    return reasons


def is_unfinished(entry: Entry) -> bool:
    """Whether fewer questions were asked than planned."""
    return entry.planned is not None and len(entry.asked) < entry.planned
