"""A run as JSON lines of per-request acceptance, in the layout of a serving engine; see `per_request`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from bench.errors import UserError
from bench.metrics.counts import acceptance_length
from bench.records.files import write_text
from bench.records.model import Arm, Sample
from bench.report.exchange.per_request import Steps, aiperf, sglang, vllm
from bench.report.stored_runs import StoredRun

Layout = Literal["vllm", "sglang", "aiperf"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
COUNTED = {
    "vllm": "1 + accepted / steps that drafted",
    "sglang": "tokens / verify passes, the token of the prefill included",
    "aiperf": "1 + accepted / steps that drafted",
}
"""How each layout's acceptance length is counted."""


def exported(stored: StoredRun, layout: Layout) -> list[dict[str, Any]]:
    """One object per measured answer of the method, all repeats, in the order of the records.

    Raises:
        UserError: If the run holds no such answer, or its acceptance was given by hand.
    """
    samples = measured_answers(stored)
    model = stored.run.model
    longest = max((max(sample.rounds.drafted.tolist(), default=0) for sample in samples), default=0)
    if layout == "vllm":
        return [vllm(sample, model, longest) for sample in samples]
    if layout == "sglang":
        return [sglang(sample, model, longest) for sample in samples]
    sessions: dict[tuple[str, int], int] = {}
    for sample in samples:
        sessions.setdefault((sample.prompt_id, sample.repeat), len(sessions))
    return [
        aiperf(sample, model, longest, session=sessions[sample.prompt_id, sample.repeat])
        for sample in samples
    ]


def measured_answers(stored: StoredRun) -> list[Sample]:
    """The method's answers that were measured.

    Raises:
        UserError: If there are none, or their acceptance was given by hand.
    """
    name = stored.run.run_id
    if stored.run.labels.get("cost only"):
        raise UserError(
            f"the acceptance of {name} was given, not measured", "export a run of a method that drafts"
        )
    samples = [sample for sample in stored.samples if sample.arm is Arm.METHOD and sample.error is None]
    if not samples:
        raise UserError(f"{name} holds no measured answer of its method", "let the run finish")
    return samples


def write_export(stored: StoredRun, layout: Layout, path: Path) -> str:
    """Write a run as JSON lines; a sentence on what was written, with both counts of the acceptance length.

    Raises:
        UserError: As `exported`, or if the file cannot be written.
    """
    objects = exported(stored, layout)
    try:
        write_text(path, "".join(f"{json.dumps(item, ensure_ascii=False)}\n" for item in objects))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}", "choose another file with --out") from error
    samples = measured_answers(stored)
    ours = acceptance_length(samples)
    return (
        f"{path}: {len(objects)} answers\n"
        f"acceptance length {pooled_length(samples, layout):.3f} as {layout} counts it ({COUNTED[layout]}), "
        f"{ours:.3f} in our tables (tokens / target passes, the prefill being one)"
    )


def pooled_length(samples: list[Sample], layout: Layout) -> float:
    """The acceptance length over all answers, counted as the layout does."""
    if layout == "sglang":
        passes = sum(len(sample.rounds) for sample in samples)
        return sum(len(sample.ids) for sample in samples) / passes if passes else 1.0
    return pooled_steps(samples).mean_acceptance_length


def pooled_steps(samples: list[Sample]) -> Steps:
    """The steps that drafted, of all answers together."""
    return Steps(tuple(_joined(samples, "drafted")), tuple(_joined(samples, "accepted")))


def _joined(samples: list[Sample], side: Literal["drafted", "accepted"]) -> Iterator[int]:
    for sample in samples:
        yield from getattr(Steps.that_drafted(sample), side)
