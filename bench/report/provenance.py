"""Where a run's numbers come from: machine, versions, code, settings, as a table for its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.records.model import Run
from bench.report.entries import sampling_text
from bench.report.stored_runs import StoredRun
from bench.report.tables import Table

_UNKNOWN = "unknown"
_DECODING = ("dtype", "tier", "attention", "draft_head")
"""Of an attempt: how passes ran; the last two only where they are not as usual."""
Rows = Iterator[tuple[str, str]]


def provenance(parts: Sequence[StoredRun]) -> Table:
    """Everything that identifies where and with what a run was measured.

    Args:
        parts: The run; of a run of several methods, each one's part.
    """
    run = parts[0].run
    rows = [*_identity(run), *_measured(run), *_machine(_last(run)), *_evidence(parts)]
    return Table("Provenance", ("what", "value"), tuple((name, text) for name, text in rows if text))


def _identity(run: Run) -> Rows:
    identity = run.identity
    model = run.config.get("model") or {}
    yield "run", run.run_id
    yield "model", ", ".join(str(part) for part in (run.model, model.get("path")) if part)
    yield "weights", f"{identity.get('model_weights', _UNKNOWN)} (hash)"
    yield "questions", f"{run.task}; file {str(identity.get('questions', _UNKNOWN))[:16]} (hash)"
    yield "chat template", f"{identity.get('template', _UNKNOWN)} (hash)"
    yield "sampling", f"{sampling_text(identity.get('sampling', {}))}, seed {identity.get('seed', 0)}"
    yield "answers", f"at most {identity.get('max_new_tokens', _UNKNOWN)} tokens"


def _measured(run: Run) -> Rows:
    measure = run.config.get("measure") or {}
    starts = [str(attempt["started_utc"]) for attempt in run.attempts if "started_utc" in attempt]
    yield "started (UTC)", ", ".join(starts)
    yield "command", str(_last(run).get("argv", ""))
    counts = [f"{measure[key]} {key}" for key in ("sessions", "repeats") if key in measure]
    yield "decoded", ", ".join(counts)


def _machine(attempt: Mapping[str, Any]) -> Rows:
    cpu, gpu = attempt.get("cpu") or {}, attempt.get("gpu") or {}
    versions, code = attempt.get("versions") or {}, attempt.get("git") or {}
    yield "device", str(attempt.get("device", _UNKNOWN))
    yield "precision and tier", ", ".join(str(attempt[key]) for key in _DECODING if attempt.get(key))
    yield "processor", _processor(cpu)
    if gpu:
        yield "GPU", ", ".join(str(gpu[key]) for key in ("name", "driver") if gpu.get(key))
    yield "system", str(attempt.get("platform", ""))
    yield "versions", ", ".join(f"{name} {value}" for name, value in versions.items() if value)
    commit = str(code.get("commit") or "")
    yield "code", f"{commit} with changes {code['diff']}" if commit and code.get("diff") else commit


def _processor(cpu: Mapping[str, Any]) -> str:
    if not cpu:
        return ""
    parts = [f"{cpu.get('model')}, {cpu.get('usable_cores')} of {cpu.get('cores')} cores usable"]
    if cpu.get("load_1min") is not None:
        parts.append(f"load {cpu['load_1min']:.2f} at the start")
    if cpu.get("omp_wait_policy"):
        parts.append(f"OMP_WAIT_POLICY {cpu['omp_wait_policy']}")
    return ", ".join(parts)


def _evidence(parts: Sequence[StoredRun]) -> Rows:
    for part in parts:
        yield f"output of {part.label or part.run.method}", part.evidence or "no certificate"


def _last(run: Run) -> Mapping[str, Any]:
    """The environment of the last start; empty where the record holds none."""
    return run.attempts[-1] if run.attempts else {}
