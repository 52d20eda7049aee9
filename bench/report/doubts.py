"""Why an entry of the leaderboard gets no rank: it is not finished, or it cannot be believed."""

from __future__ import annotations

from bench.records.model import Arm, Verdict
from bench.report.entries import Entry


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
