"""What an answer accepted, as vLLM, SGLang and AIPerf report a request: counted by hand here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.records.model import Arm, Round, Sample, Timing
from bench.records.rounds import Rounds
from bench.report.__main__ import main
from bench.report.exchange.commands import _LAYOUTS
from bench.report.exchange.export import LAYOUTS, exported, pooled_length
from bench.report.exchange.per_request import Steps, aiperf, sglang, vllm
from tests.report.boards import Plan, save, stored

ROUNDS = [
    Round(3, 3, 4, 3, "length"),
    Round(0, 0, 1, 0, "match"),  # nothing was drafted: a pass of one token
    Round(3, 0, 1, 3, "length"),
    Round(2, 1, 1, 2, "budget"),  # cut: of two tokens one is output
]
ANSWER = Sample(
    "q1",
    "qa",
    1,
    0,
    Arm.METHOD,
    0,
    prompt_tokens=50,
    ids=tuple(range(8)),
    rounds=Rounds.of(ROUNDS),
    timing=Timing(0.5, 1.4, {}, 1.9),
    started_at=100.0,
)


def test_vllm_counts_the_steps_that_drafted() -> None:
    made = vllm(ANSWER, "tiny", 4)
    assert made["usage"] == {"prompt_tokens": 50, "completion_tokens": 8, "total_tokens": 58}
    assert made["metrics"]["speculative_decoding"] == {
        "mean_acceptance_length": 1 + 4 / 3,
        "draft_acceptance_rate": 4 / 8,
        "acceptance_histogram": [1, 1, 0, 1, 0],  # as long as the longest draft of the run, and 0
        "acceptance_histogram_by_draft_length": {"2": [0, 1, 0], "3": [1, 0, 0, 1]},
        "num_spec_steps": 3,
        "num_accepted_draft_tokens": 4,
        "num_draft_tokens": 8,
        "num_spec_tokens": 4,
        "per_step_accepted": [3, 0, 1],
        "per_step_drafted": [3, 3, 2],
    }


def test_sglang_divides_all_tokens_by_all_verify_passes() -> None:
    assert sglang(ANSWER, "tiny", 3)["meta_info"] == {
        "id": "q1/1/0",
        "model": "tiny",
        "prompt_tokens": 50,
        "completion_tokens": 8,
        "e2e_latency": 1.9,
        "spec_accept_rate": 4 / 8,
        "spec_accept_length": 8 / 4,
        "spec_num_correct_drafts": 4,
        "spec_num_proposed_drafts": 8,
        "spec_verify_ct": 4,
        "spec_correct_drafts_histogram": [2, 1, 0, 1],
    }


def test_an_answer_of_one_token_has_no_steps() -> None:
    short = replace(ANSWER, ids=(1,), rounds=Rounds.of())
    assert "spec_verify_ct" not in sglang(short, "tiny", 3)["meta_info"]
    figures = vllm(short, "tiny", 3)["metrics"]["speculative_decoding"]
    assert (figures["mean_acceptance_length"], figures["draft_acceptance_rate"]) == (1.0, 0.0)
    assert figures["acceptance_histogram"] == [0, 0, 0, 0]
    assert "inter_token_latency" not in aiperf(short, "tiny", 3, session=0)["metrics"]


def test_a_record_of_aiperf_has_a_sparse_histogram_and_its_kind_of_question() -> None:
    made = aiperf(ANSWER, "tiny", 3, session=7)
    acceptance = made["spec_decode_acceptance"]
    assert acceptance["acceptance_histogram"] == {"0": 1, "1": 1, "3": 1}
    assert made["metadata"]["source_kind"] == "qa"
    assert made["metadata"]["session_num"] == 7
    assert (made["metadata"]["request_start_ns"], made["metadata"]["request_end_ns"]) == (100e9, 101.9e9)
    assert made["metrics"]["inter_token_latency"] == {"value": pytest.approx(200), "unit": "ms"}
    assert made["metrics"]["time_to_first_token"] == {"value": 500, "unit": "ms"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(stored(Plan("kangaroo", subtasks=("qa", "rag"), questions=3)), tmp_path_factory.mktemp("r"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_becomes_a_line_per_answer(folder: Path, layout: str, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["export", str(folder), "--format", layout, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 2 * 3 * 2  # subtasks, questions, repeats
    said = capsys.readouterr().out
    assert f"as {layout} counts it" in said
    assert "in our tables" in said


def test_totals_of_a_record_agree_with_each_other_as_aiperf_demands() -> None:
    for line in exported(stored(Plan("kangaroo", questions=2)), "aiperf"):
        found = line["spec_decode_acceptance"]
        counts = {int(j): count for j, count in found["acceptance_histogram"].items()}
        assert sum(counts.values()) == found["num_spec_steps"]
        assert sum(j * count for j, count in counts.items()) == found["num_accepted_draft_tokens"]
        assert found["num_accepted_draft_tokens"] <= found["num_draft_tokens"]


def test_lengths_over_all_answers_are_sums_over_sums() -> None:
    other = replace(ANSWER, prompt_id="q2", ids=(1, 2), rounds=Rounds.of([Round(4, 0, 1, 4, "length")]))
    assert pooled_length([ANSWER, other], "vllm") == 1 + 4 / 4
    assert pooled_length([ANSWER, other], "sglang") == 10 / 5
    assert Steps.of_all(other).draft_acceptance_rate == 0


def test_a_given_acceptance_and_a_run_without_answers_are_refused() -> None:
    given = stored(Plan("synthetic", questions=2, labels={"cost only": True}))
    with pytest.raises(UserError, match="was given, not measured"):
        exported(given, "vllm")
    failed = stored(Plan("kangaroo", subtasks=("qa",), questions=2, fail=4))
    with pytest.raises(UserError, match="no measured answer"):
        exported(failed, "vllm")


def test_the_command_offers_the_layouts_that_there_are() -> None:
    assert set(_LAYOUTS) == set(LAYOUTS)
