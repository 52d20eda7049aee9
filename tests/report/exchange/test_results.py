"""Results of other tools: read as those tools wrote them, shown as measured elsewhere, kept for a board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.report.__main__ import main
from bench.report.build import build
from bench.report.exchange.export import exported
from bench.report.exchange.results import read_results
from bench.report.exchange.rows import kept_rows
from tests.report.boards import Plan, save, stored

VLLM = {
    "date": "20260901-120000",
    "endpoint_type": "openai-chat",
    "backend": "openai-chat",
    "label": None,
    "model_id": "meta-llama/Llama-3.1-8B-Instruct",
    "num_prompts": 80,
    "request_rate": "inf",
    "max_concurrency": 4,
    "duration": 30.0,
    "completed": 79,
    "failed": 1,
    "total_output_tokens": 9000,
    "output_throughput": 300.5,
    "mean_ttft_ms": 21.5,
    "mean_tpot_ms": 9.25,
    "spec_decode_acceptance_rate": 46.5,
    "spec_decode_acceptance_length": 2.395,
    "spec_decode_num_drafts": 3000,
    "spec_decode_draft_tokens": 9000,
    "spec_decode_accepted_tokens": 4185,
}
AIPERF = {
    "schema_version": "1.5",
    "aiperf_version": "0.14.0",
    "input_config": {"models": {"items": [{"name": "Qwen/Qwen3-8B"}]}},
    "request_count": {"unit": "requests", "avg": 20.0},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 512.0},
    "time_to_first_token": {"unit": "ms", "avg": 30.0, "count": 20},
    "inter_token_latency": {"unit": "ms", "avg": 7.5, "count": 20},
    "spec_decode_token_weighted_acceptance_length": {"unit": "ratio", "avg": 3.2},
    "spec_decode_overall_draft_acceptance_rate": {"unit": "%", "avg": 44.0},
}


def request(start_s: float, end_s: float, phase: str = "profiling", error: Any = None) -> dict[str, Any]:
    """A line of AIPerf's records, with 10 steps that accepted 15 of 30 drafted tokens."""
    counts = {"num_spec_steps": 10, "num_accepted_draft_tokens": 15, "num_draft_tokens": 30}
    metadata = {"benchmark_phase": phase, "request_start_ns": start_s * 1e9, "request_end_ns": end_s * 1e9}
    metrics = {"output_sequence_length": {"value": 26, "unit": "tokens"}}
    metrics |= {"inter_token_latency": {"value": 8.0, "unit": "ms"}}
    spec = {"engine": "vllm", **counts}
    return {"metadata": metadata, "metrics": metrics, "spec_decode_acceptance": spec, "error": error}


def write(path: Path, *objects: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(item) for item in objects))
    return path


def test_a_result_of_vllm_bench_serve(tmp_path: Path) -> None:
    (row,) = read_results(write(tmp_path / "eagle3.json", VLLM))
    assert (row.name, row.tool) == ("eagle3", "vllm bench serve, openai-chat")
    assert row.model == "meta-llama/Llama-3.1-8B-Instruct"
    assert (row.requests, row.failed, row.concurrency) == (79, 1, 4)
    assert row.acceptance_length == 2.395 == 1 + 4185 / 3000
    assert row.draft_acceptance == pytest.approx(4185 / 9000)  # percent in the file
    assert (row.tokens_per_s, row.first_token_ms, row.per_token_ms) == (300.5, 21.5, 9.25)
    assert row.counted == "1 + accepted / steps that drafted"


def test_results_that_were_appended_to_one_file_are_rows_of_their_own(tmp_path: Path) -> None:
    plain = {key: value for key, value in VLLM.items() if not key.startswith("spec_decode")}
    rows = read_results(write(tmp_path / "both.json", VLLM, plain))
    assert [row.name for row in rows] == ["both-1", "both-2"]
    assert rows[1].acceptance_length is None


def test_a_result_of_sglangs_benchmark_is_not_taken_for_vllms(tmp_path: Path) -> None:
    found = {"backend": "sglang", "max_concurrency": 8, "completed": 50, "output_throughput": 900.0}
    (row,) = read_results(write(tmp_path / "s.jsonl", found | {"accept_length": 2.75, "mean_tpot_ms": 4.0}))
    assert (row.tool, row.counted) == ("SGLang bench_serving, sglang", "the server's average")
    assert (row.acceptance_length, row.draft_acceptance, row.per_token_ms) == (2.75, None, 4.0)


def test_a_folder_of_aiperf(tmp_path: Path) -> None:
    write(tmp_path / "profile_export_aiperf.json", AIPERF)
    (row,) = read_results(tmp_path, "qwen")
    assert (row.tool, row.model, row.requests) == ("AIPerf 0.14.0", "Qwen/Qwen3-8B", 20)
    assert (row.acceptance_length, row.draft_acceptance) == (3.2, 0.44)
    assert (row.tokens_per_s, row.first_token_ms, row.per_token_ms) == (512.0, 30.0, 7.5)


def test_requests_of_aiperf_without_warm_up_and_failures(tmp_path: Path) -> None:
    lines = [request(0, 9, "warmup"), request(10, 11), request(10, 12), request(11, 12, error={"code": 500})]
    (row,) = read_results(write(tmp_path / "profile_export.jsonl", *lines))
    assert (row.requests, row.failed) == (2, 1)
    assert (row.acceptance_length, row.draft_acceptance) == (2.5, 0.5)
    assert row.tokens_per_s == 52 / 2
    assert (row.first_token_ms, row.per_token_ms) == (None, 8.0)


def test_answer_files_are_read_by_their_own_reader(tmp_path: Path) -> None:
    choice = {"index": 0, "turns": ["a b"], "decoding_steps": [2], "new_tokens": [6], "wall_time": [2.0]}
    line = {"question_id": 81, "category": "qa", "choices": [{**choice, "accept_lengths": [1, 5]}]}
    (row,) = read_results(write(tmp_path / "swift.jsonl", line))
    assert (row.tool, row.counted) == ("answer file", "mean of accept_lengths")
    assert (row.requests, row.acceptance_length, row.tokens_per_s) == (1, 3.0, 3.0)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "holds no JSON object"),
        ("[1]", "holds no JSON object"),
        ('{"a": 1}', "is no result that is known: its keys are a"),
        ('{"output_throughput": 1}', "lacks 'completed'"),
        ('{"a": 1}\n{oops', "line 2 is not JSON"),
        (json.dumps({**VLLM, "mean_tpot_ms": -1}), "mean_tpot_ms must be a finite number of at least 0"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(content: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_results(path)
    assert what in caught.value.what


def test_an_empty_folder_and_our_own_export_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither profile_export_aiperf\.json nor"):
        read_results(tmp_path)
    ours = exported(stored(Plan("kangaroo", questions=1)), "aiperf")
    with pytest.raises(UserError, match="exported by this harness"):
        read_results(write(tmp_path / "ours.jsonl", *ours))


def test_an_imported_result_stands_on_the_board_apart_from_ours(tmp_path: Path, capsys: Any) -> None:
    save(stored(Plan("kangaroo", questions=12, subtasks=("qa",), limit=12)), tmp_path)
    before = build(tmp_path).texts["leaderboard.md"]
    file = write(tmp_path / "eagle3.json", VLLM)
    assert main(["import", str(file), "--into", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("MEASURED ELSEWHERE: not by this harness")
    board = build(tmp_path)
    text = board.texts["leaderboard.md"]
    ours, theirs = text.split("\n## Measured elsewhere\n")
    assert "eagle3" not in ours
    assert "| eagle3 | vllm bench serve, openai-chat |" in theirs
    assert "not measured by this harness" in theirs
    assert "eagle3" in board.texts["leaderboard.html"]
    assert "eagle3" not in board.texts["leaderboard.csv"]
    assert before.split("\n## How to read this")[0] == ours
    assert main(["table", str(tmp_path), "--table", "elsewhere", "--format", "csv"]) == 0
    assert "eagle3" in capsys.readouterr().out


def test_what_was_kept_can_be_read_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert kept_rows(tmp_path) == []
    file = write(tmp_path / "eagle3.json", VLLM)
    assert main(["import", str(file), "--into", str(tmp_path), "--name", "mine"]) == 0
    (row,) = read_results(file, "mine")
    assert kept_rows(tmp_path) == [row]
    (tmp_path / "elsewhere" / "mine.json").write_text("{}")
    with pytest.raises(UserError, match=r"mine\.json is no imported result"):
        kept_rows(tmp_path)


def test_another_result_does_not_replace_one_of_the_same_name(tmp_path: Path, capsys: Any) -> None:
    file = write(tmp_path / "eagle3.json", VLLM)
    assert main(["import", str(file), "--into", str(tmp_path)]) == 0
    assert main(["import", str(file), "--into", str(tmp_path)]) == 0  # the same again
    write(file, {**VLLM, "completed": 3})
    assert main(["import", str(file), "--into", str(tmp_path)]) == 2
    assert "holds another result" in capsys.readouterr().err


def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, capsys: Any) -> None:
    file = write(tmp_path / "eagle3.json", VLLM)
    assert main(["import", str(file), "--into", str(tmp_path), "--name", "../up"]) == 2
    assert "give one with --name" in capsys.readouterr().err
