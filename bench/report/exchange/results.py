"""Result files of other harnesses, read into rows that say they were measured elsewhere.

- ``vllm bench serve --save-result`` (vLLM 0.32): an object of the whole benchmark; with ``--append-result``
  one object a line. Acceptance is the difference of the server's counters before and after.
- SGLang's ``bench_serving``: an object a line, in nearly the same keys. Acceptance is the average that the
  server keeps since its start.
- AIPerf (0.14): a folder, its ``profile_export_aiperf.json``, or its ``profile_export.jsonl`` of requests.
- Answer files of Spec-Bench, Kangaroo, EAGLE and SWIFT, which `bench.report.answers` reads.

The content of a file tells which of them it is. Figures stay as the tool counted them, and
`Elsewhere.counted` says how.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.report.answers import Answer, read_answers, text_of
from bench.report.exchange.export import COUNTED
from bench.report.exchange.per_request import ENGINE
from bench.report.rescore import OVERALL, scores

AIPERF_SUMMARY, AIPERF_REQUESTS = "profile_export_aiperf.json", "profile_export.jsonl"
_FIX = (
    "give the JSON of 'vllm bench serve --save-result', a folder of AIPerf's results, or an answer file of "
    "Spec-Bench's harness"
)
_ACCEPTANCE = ("num_spec_steps", "num_accepted_draft_tokens", "num_draft_tokens")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A result that this harness has not measured; None where the file does not say.

    Args:
        name: What the row is called.
        tool: What measured it.
        model: As the file names it; empty if it does not.
        requests: Requests that succeeded.
        failed: Requests that did not.
        concurrency: Most requests at a time.
        acceptance_length: As the tool counts it.
        counted: How that is.
        draft_acceptance: Share of drafted tokens that were accepted, 0 to 1.
        tokens_per_s: Output tokens per second, of all requests at a time together.
        first_token_ms: Mean wait for the first token.
        per_token_ms: Mean time per token after the first.
    """

    name: str
    tool: str
    model: str
    requests: int
    failed: int
    concurrency: float | None
    acceptance_length: float | None
    counted: str
    draft_acceptance: float | None
    tokens_per_s: float | None
    first_token_ms: float | None
    per_token_ms: float | None


def read_results(path: Path, name: str | None = None) -> list[Elsewhere]:
    """The rows of a result file, one for a file of a single benchmark.

    Args:
        path: A file, or a folder of AIPerf's.
        name: What to call its row; by default the file's or the folder's name.

    Raises:
        UserError: If it cannot be read, or is none of the layouts.
    """
    if path.is_dir():
        return [_aiperf_folder(path, name or path.name)]
    objects = _objects(path)
    label = name or path.stem
    first = objects[0]
    if "choices" in first:
        return [_answers(read_answers(path), label)]
    if "metadata" in first and "metrics" in first:
        return [_aiperf_requests(objects, label, "")]
    if isinstance(first.get("output_throughput"), int | float):
        names = [label] if len(objects) == 1 else [f"{label}-{place}" for place in range(1, len(objects) + 1)]
        return [_serving(item, row, path) for item, row in zip(objects, names, strict=True)]
    if "aiperf_version" in first or isinstance(first.get("request_count"), Mapping):
        return [_aiperf_summary(first, label)]
    raise UserError(f"{path} is no result that is known: its keys are {', '.join(list(first)[:6])}", _FIX)


def _objects(path: Path) -> list[dict[str, Any]]:
    """The file's JSON object, or its objects if it has one a line."""
    text = text_of(path, _FIX)
    try:
        found = [json.loads(text)]
    except (ValueError, RecursionError):
        found = [_line(path, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not found or not all(isinstance(item, dict) for item in found):
        raise UserError(f"{path} holds no JSON object", _FIX)
    return found


def _line(path: Path, number: int, line: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number} is not JSON: {error}", _FIX) from error


def _serving(found: Mapping[str, Any], name: str, path: Path) -> Elsewhere:
    """A benchmark of vLLM, or of SGLang, which alone writes ``accept_length``."""
    completed = _number(found, "completed")
    if completed is None:
        raise UserError(f"{path} lacks 'completed', the number of requests", _FIX)
    rate = _number(found, "spec_decode_acceptance_rate")  # in percent there
    is_sglang = "accept_length" in found
    tool = "SGLang bench_serving" if is_sglang else "vllm bench serve"
    length = _number(found, "accept_length" if is_sglang else "spec_decode_acceptance_length")
    return Elsewhere(
        name=name,
        tool=f"{tool}, {found['backend']}" if found.get("backend") else tool,
        model=str(found.get("model_id") or ""),
        requests=int(completed),
        failed=int(_number(found, "failed") or 0),
        concurrency=_number(found, "max_concurrency") or _number(found, "max_concurrent_requests"),
        acceptance_length=length,
        counted="the server's average" if is_sglang else COUNTED["vllm"],
        draft_acceptance=None if rate is None else rate / 100,
        tokens_per_s=_number(found, "output_throughput"),
        first_token_ms=_number(found, "mean_ttft_ms"),
        per_token_ms=_number(found, "mean_tpot_ms"),
    )


def _aiperf_folder(folder: Path, name: str) -> Elsewhere:
    """The summary of a run, or where AIPerf wrote none, what its requests say."""
    summary, requests = folder / AIPERF_SUMMARY, folder / AIPERF_REQUESTS
    if not summary.is_file() and not requests.is_file():
        raise UserError(f"{folder} holds neither {AIPERF_SUMMARY} nor {AIPERF_REQUESTS}", _FIX)
    if not summary.is_file():
        return _aiperf_requests(_objects(requests), name, "")
    return _aiperf_summary(_objects(summary)[0], name)


def _aiperf_summary(found: Mapping[str, Any], name: str) -> Elsewhere:
    rate = _average(found, "spec_decode_overall_draft_acceptance_rate")  # in percent there
    return Elsewhere(
        name=name,
        tool=" ".join(part for part in ("AIPerf", str(found.get("aiperf_version") or "")) if part),
        model=_aiperf_model(found),
        requests=int(_average(found, "request_count") or 0),
        failed=int(_average(found, "error_request_count") or 0),
        concurrency=None,
        acceptance_length=_average(found, "spec_decode_token_weighted_acceptance_length"),
        counted=COUNTED["aiperf"],
        draft_acceptance=None if rate is None else rate / 100,
        tokens_per_s=_average(found, "output_token_throughput"),
        first_token_ms=_average(found, "time_to_first_token"),
        per_token_ms=_average(found, "inter_token_latency"),
    )


def _aiperf_requests(records: Sequence[Mapping[str, Any]], name: str, model: str) -> Elsewhere:
    """From requests alone: warm-up left out, acceptance over all steps, means over requests."""
    kept = [record for record in records if _metadata(record).get("benchmark_phase") != "warmup"]
    good = [record for record in kept if not record.get("error")]
    counts = [found for record in good if isinstance(found := record.get("spec_decode_acceptance"), Mapping)]
    if any(found.get("engine") == ENGINE for found in counts):
        raise UserError(
            f"{name} was exported by this harness, so it was measured here", "read the run itself"
        )
    steps, accepted, drafted = (sum(int(_number(found, key) or 0) for found in counts) for key in _ACCEPTANCE)
    spans = [_metadata(record) for record in good]
    start, end = ([_number(span, f"request_{side}_ns") or 0 for span in spans] for side in ("start", "end"))
    duration_s = (max(end, default=0) - min(start, default=0)) / 1e9
    tokens = sum(_values(good, "output_sequence_length"))
    return Elsewhere(
        name=name,
        tool="AIPerf",
        model=model,
        requests=len(good),
        failed=len(kept) - len(good),
        concurrency=None,
        acceptance_length=1 + accepted / steps if steps else None,
        counted=COUNTED["aiperf"],
        draft_acceptance=accepted / drafted if drafted else None,
        tokens_per_s=tokens / duration_s if tokens and duration_s > 0 else None,
        first_token_ms=_mean(_values(good, "time_to_first_token")),
        per_token_ms=_mean(_values(good, "inter_token_latency")),
    )


def _answers(answers: Sequence[Answer], name: str) -> Elsewhere:
    """An answer file as one row: its figures are those of `bench.report.rescore`, which also has speedups."""
    good = [answer for answer in answers if not answer.has_failed]
    overall = next((score for score in scores(answers) if score.subtask == OVERALL), None)
    seconds = sum(sum(answer.wall_s) for answer in good)
    tokens = sum(sum(answer.new_tokens) for answer in good)
    return Elsewhere(
        name=name,
        tool="answer file",
        model="",
        requests=len(good),
        failed=len(answers) - len(good),
        concurrency=1.0,
        acceptance_length=overall.their_accepted if overall else None,
        counted="mean of accept_lengths",
        draft_acceptance=None,
        tokens_per_s=tokens / seconds if seconds else None,
        first_token_ms=None,
        per_token_ms=None,
    )


def _aiperf_model(found: Mapping[str, Any]) -> str:
    """The model's name in AIPerf's own settings; empty where they do not hold it in the place known."""
    node: Any = found.get("input_config")
    for key in ("models", "items"):
        node = node.get(key) if isinstance(node, Mapping) else None
    first = node[0] if isinstance(node, list) and node else None
    return str(first.get("name") or "") if isinstance(first, Mapping) else ""


def _metadata(record: Mapping[str, Any]) -> Mapping[str, Any]:
    found = record.get("metadata")
    return found if isinstance(found, Mapping) else {}


def _values(records: Iterable[Mapping[str, Any]], metric: str) -> list[float]:
    """A metric of every request that has it."""
    listed = (record.get("metrics") for record in records)
    found = (metrics.get(metric) for metrics in listed if isinstance(metrics, Mapping))
    numbers = (_number(value, "value") for value in found if isinstance(value, Mapping))
    return [number for number in numbers if number is not None]


def _average(found: Mapping[str, Any], metric: str) -> float | None:
    value = found.get(metric)
    return _number(value, "avg") if isinstance(value, Mapping) else None


def _number(found: Mapping[str, Any], key: str) -> float | None:
    """A number that is finite and not negative; None where there is none."""
    value = found.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or value < 0:
        raise UserError(f"{key} must be a finite number of at least 0, got {value}", "mend the result file")
    return float(value)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
