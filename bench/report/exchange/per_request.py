"""What one answer accepted, in the layouts in which serving engines report a request.

All of them say how many drafted tokens each step accepted, and differ in which steps they count:

- vLLM and AIPerf leave out steps that drafted nothing. Their mean acceptance length is
  ``1 + accepted / steps``, the one being the token that the target adds (the bonus token). The token of the
  prefill is in neither sum.
- SGLang counts every verify pass, and divides all tokens of the answer, that of the prefill included, by
  their number.

Layouts: vLLM 0.32 (``metrics.speculative_decoding`` at level ``detailed``), SGLang 0.5.19 (``meta_info``),
AIPerf 0.14 (``profile_export.jsonl``). Drafted tokens of a tree are all its nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.records.model import Sample

ENGINE = "self-speculative-bench"


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of one or more answers that a layout counts.

    Args:
        drafted: Drafted tokens by step.
        accepted: Of these, how many the target accepted.
    """

    drafted: tuple[int, ...]
    accepted: tuple[int, ...]

    @classmethod
    def of_all(cls, sample: Sample) -> Steps:
        """Every round of an answer."""
        return cls(tuple(sample.rounds.drafted.tolist()), tuple(sample.rounds.accepted.tolist()))

    @classmethod
    def that_drafted(cls, sample: Sample) -> Steps:
        """The rounds of an answer that drafted a token."""
        has_draft = sample.rounds.drafted > 0
        rounds = sample.rounds
        return cls(tuple(rounds.drafted[has_draft].tolist()), tuple(rounds.accepted[has_draft].tolist()))

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens per step, the bonus token included; 1 where there is no step."""
        return 1 + sum(self.accepted) / len(self.accepted) if self.accepted else 1.0

    @property
    def draft_acceptance_rate(self) -> float:
        """Share of the drafted tokens that were accepted; 0 where nothing was drafted."""
        return sum(self.accepted) / sum(self.drafted) if sum(self.drafted) else 0.0

    def histogram(self, longest: int) -> list[int]:
        """How many steps accepted 0, 1, ... `longest` drafted tokens, shape [longest + 1]."""
        counted: list[int] = np.bincount(
            np.array(self.accepted, dtype=np.int64), minlength=longest + 1
        ).tolist()
        return counted


def vllm(sample: Sample, model: str, longest: int) -> dict[str, Any]:
    """An answer as a response of vLLM's server, without its text.

    Args:
        sample: The answer.
        model: Name of the model.
        longest: Most tokens that a round of the run drafted; stands for vLLM's fixed number of draft tokens.
    """
    steps = Steps.that_drafted(sample)
    by_length = {
        str(length): Steps(
            (length,) * steps.drafted.count(length),
            tuple(a for d, a in zip(steps.drafted, steps.accepted, strict=True) if d == length),
        ).histogram(length)
        for length in sorted(set(steps.drafted))
    }
    return {
        "id": request_id(sample),
        "model": model,
        "usage": {
            "prompt_tokens": sample.prompt_tokens,
            "completion_tokens": len(sample.ids),
            "total_tokens": sample.prompt_tokens + len(sample.ids),
        },
        "metrics": {
            "speculative_decoding": {
                "mean_acceptance_length": steps.mean_acceptance_length,
                "draft_acceptance_rate": steps.draft_acceptance_rate,
                "acceptance_histogram": steps.histogram(longest),
                "acceptance_histogram_by_draft_length": by_length,
                **_totals(steps),
                "num_spec_tokens": longest,
                "per_step_accepted": list(steps.accepted),
                "per_step_drafted": list(steps.drafted),
            }
        },
    }


def sglang(sample: Sample, model: str, longest: int) -> dict[str, Any]:
    """An answer as a response of SGLang's ``/generate``, without its text; arguments as of `vllm`."""
    steps = Steps.of_all(sample)
    figures: dict[str, Any] = {}
    if steps.accepted:  # as there, an answer of one token has none of these
        figures = {
            "spec_accept_rate": steps.draft_acceptance_rate,
            "spec_accept_length": len(sample.ids) / len(steps.accepted),
            "spec_num_correct_drafts": sum(steps.accepted),
            "spec_num_proposed_drafts": sum(steps.drafted),
            "spec_verify_ct": len(steps.accepted),
            "spec_correct_drafts_histogram": steps.histogram(longest),
        }
    return {
        "meta_info": {
            "id": request_id(sample),
            "model": model,
            "prompt_tokens": sample.prompt_tokens,
            "completion_tokens": len(sample.ids),
            "e2e_latency": sum(_seconds(sample)),
            **figures,
        }
    }


def aiperf(sample: Sample, model: str, longest: int, *, session: int) -> dict[str, Any]:
    """An answer as a line of AIPerf's records; its kind of question is the ``source_kind``.

    Args:
        sample, model, longest: As of `vllm`.
        session: Number of its conversation within the file, from 0.
    """
    steps = Steps.that_drafted(sample)
    sparse = {str(j): count for j, count in enumerate(steps.histogram(longest)) if count}
    start_ns = int((sample.started_at or 0.0) * 1e9)
    return {
        "metadata": {
            "session_num": session,
            "x_request_id": request_id(sample),
            "conversation_id": sample.prompt_id,
            "turn_index": sample.turn,
            "request_start_ns": start_ns,
            "request_end_ns": start_ns + int(sum(_seconds(sample)) * 1e9),
            "worker_id": ENGINE,
            "record_processor_id": ENGINE,
            "benchmark_phase": "profiling",
            "source_kind": sample.subtask,
            "was_cancelled": False,
        },
        "metrics": _aiperf_metrics(sample),
        "spec_decode_acceptance": {
            "engine": ENGINE,
            "mean_acceptance_length": steps.mean_acceptance_length,
            "draft_acceptance_rate": steps.draft_acceptance_rate,
            "acceptance_histogram": sparse,
            **_totals(steps),
            "num_spec_tokens": longest,
            "completion_tokens": len(sample.ids),
            "per_step_accepted": list(steps.accepted),
            "per_step_drafted": list(steps.drafted),
        },
        "error": None,
    }


def request_id(sample: Sample) -> str:
    """Names an answer within its run: question, turn and repeat."""
    return f"{sample.prompt_id}/{sample.turn}/{sample.repeat}"


def _totals(steps: Steps) -> dict[str, int]:
    return {
        "num_spec_steps": len(steps.accepted),
        "num_accepted_draft_tokens": sum(steps.accepted),
        "num_draft_tokens": sum(steps.drafted),
    }


def _aiperf_metrics(sample: Sample) -> Mapping[str, Mapping[str, float | str]]:
    """The metrics that a record of ours determines, in AIPerf's units."""
    prefill_s, decode_s = _seconds(sample)
    count = len(sample.ids)
    milliseconds = {"time_to_first_token": prefill_s, "request_latency": prefill_s + decode_s}
    if count > 1:
        milliseconds["inter_token_latency"] = decode_s / (count - 1)
    return {
        "input_sequence_length": {"value": sample.prompt_tokens, "unit": "tokens"},
        "output_sequence_length": {"value": count, "unit": "tokens"},
        "output_token_count": {"value": count, "unit": "tokens"},
        **{name: {"value": 1e3 * seconds, "unit": "ms"} for name, seconds in milliseconds.items()},
    }


def _seconds(sample: Sample) -> tuple[float, float]:
    """Seconds of prefill and decode; of a measured sample only."""
    if sample.timing is None:
        raise ValueError(f"sample {sample.key} was not measured")
    return sample.timing.prefill_s, sample.timing.decode_s
