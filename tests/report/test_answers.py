"""Answer files of the original harness: what we write scores there as here, and what others wrote is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.metrics.counts import acceptance_length, spec_bench_speedup
from bench.records.model import Arm
from bench.report.__main__ import main
from bench.report.answers import read_answers, write_answers
from bench.report.rescore import scores, scores_text, warnings
from tests.report.boards import SUBTASKS, Plan, save, stored

FEW = 200
MT = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")


def words(text: str) -> int:
    """A tokenizer's count: a token per word, and the start token."""
    return 1 + len(text.split())


def original_scores(method: Path, baseline: Path, subtask: str) -> tuple[float, float]:
    """Speedup and mean accepted tokens by the original script's formulas, written down anew."""
    categories = MT if subtask == "mt_bench" else (subtask,)
    speeds: list[float] = []
    accepted: list[int] = []
    for record in map(json.loads, method.read_text().splitlines()):
        if record["category"] in categories:
            choice = record["choices"][0]
            speeds.append(sum(choice["new_tokens"]) / sum(choice["wall_time"]))
            accepted += choice["accept_lengths"]
    plain: list[float] = []
    for record in map(json.loads, baseline.read_text().splitlines()):
        if record["category"] in categories:
            choice = record["choices"][0]
            tokens = sum(words(text) - 1 for text in choice["turns"])
            plain.append(tokens / sum(choice["wall_time"]))
    speedup = (sum(speeds) / len(speeds)) / (sum(plain) / len(plain))
    return speedup, sum(accepted) / len(accepted)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_answers(stored(Plan("kangaroo", 1.9, 6, 0.72)), tmp_path_factory.mktemp("answers"))


def test_a_file_per_arm_and_repeat(files: list[Path]) -> None:
    assert [f"{path.parent.name}/{path.name}" for path in files] == [
        "run_1/vanilla.jsonl", "run_1/kangaroo.jsonl", "run_2/vanilla.jsonl", "run_2/kangaroo.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_export_scored_there_and_imported_again_gives_the_same_numbers(
    files: list[Path], subtask: str
) -> None:
    baseline, method = files[:2]
    by_subtask = {
        score.subtask: score
        for score in scores(read_answers(method), read_answers(baseline), words, resamples=FEW)
    }
    speedup, accepted = original_scores(method, baseline, subtask)
    assert by_subtask[subtask].their_speedup == pytest.approx(speedup, rel=1e-12)
    assert by_subtask[subtask].their_accepted == pytest.approx(accepted, rel=1e-12)


def test_imported_figures_are_those_of_the_records(files: list[Path]) -> None:
    samples = [sample for sample in stored(Plan("kangaroo", 1.9, 6, 0.72)).samples if sample.repeat == 0]
    method = [sample for sample in samples if sample.arm is Arm.METHOD]
    baseline = [sample for sample in samples if sample.arm is Arm.BASELINE]
    overall = scores(read_answers(files[1]), read_answers(files[0]), words, resamples=FEW)[-1]
    assert overall.swift_speedup == pytest.approx(spec_bench_speedup(baseline, method), rel=1e-12)
    assert overall.acceptance_length == pytest.approx(acceptance_length(method), rel=1e-12)
    assert overall.their_accepted == pytest.approx(acceptance_length(method), rel=1e-12)


def test_the_baseline_against_itself_is_one_only_when_corrected(files: list[Path]) -> None:
    plain = read_answers(files[0])
    overall = scores(plain, plain, lambda text: words(text) - 1, resamples=FEW)[-1]  # the end token is lost
    assert overall.their_speedup is not None
    assert overall.their_speedup > 1.02
    assert overall.speedup is not None
    assert overall.speedup.estimate == 1.0


def record(**changes: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "turns": ["a b c", "d e f g"],
        "idxs": [2, 2],
        "new_tokens": [4, 5],
        "wall_time": [0.1, 0.2],
        "accept_lengths": [1, 3, 1, 4],
    }
    return {"question_id": 81, "category": "writing", "choices": [choice | changes]}


def save_lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def test_kangaroos_name_of_the_steps_is_read(tmp_path: Path) -> None:
    (answer,) = read_answers(save_lines(tmp_path / "kangaroo.jsonl", record()))
    assert (answer.subtask, answer.steps, answer.new_tokens) == ("mt_bench", (2, 2), (4, 5))


def test_a_prefill_that_the_list_leaves_out_is_counted(tmp_path: Path) -> None:
    with_prefill = read_answers(save_lines(tmp_path / "a.jsonl", record()))
    without = read_answers(save_lines(tmp_path / "b.jsonl", record(accept_lengths=[3, 4])))
    for answers, theirs in ((with_prefill, 9 / 4), (without, 7 / 2)):
        overall = scores(answers)[-1]
        assert overall.their_accepted == pytest.approx(theirs)
        assert overall.acceptance_length == pytest.approx(9 / 4)


def test_answers_that_raised_are_left_out_and_named(tmp_path: Path) -> None:
    good, bad = record(), record(turns=["ERROR", "d e f g"]) | {"question_id": 82}
    answers = read_answers(save_lines(tmp_path / "a.jsonl", good, bad))
    assert scores(answers)[-1].questions == 1
    assert warnings(answers, []) == ["method: 1 answers raised and are left out (82)"]


def test_lists_that_do_not_add_up_are_named(tmp_path: Path) -> None:
    answers = read_answers(save_lines(tmp_path / "a.jsonl", record(accept_lengths=[1, 3, 1, 9])))
    (note,) = warnings(answers, [])
    assert "do not add up" in note
    assert scores(answers)[-1].acceptance_length == pytest.approx(14 / 4)


def test_the_last_answer_to_a_question_counts(tmp_path: Path) -> None:
    (answer,) = read_answers(save_lines(tmp_path / "a.jsonl", record(new_tokens=[1, 1]), record()))
    assert answer.new_tokens == (4, 5)


def test_without_a_baseline_there_are_no_speedups(tmp_path: Path) -> None:
    text = scores_text(scores(read_answers(save_lines(tmp_path / "a.jsonl", record()))), [])
    assert text.splitlines()[-1].split() == ["overall", "1", "-", "-", "-", "2.250", "2.250"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no answers"),
        ("{}\n", "line 1 is no answer"),
        (json.dumps(record(wall_time=[1.0])), "differ in length"),
    ],
)
def test_other_files_are_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_answers(path)


def test_both_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(stored(Plan("kangaroo")), tmp_path)
    assert main(["export-spec-bench", str(folder), "--output", str(tmp_path / "out")]) == 0
    baseline, method, *_ = capsys.readouterr().out.split()
    assert main(["import-spec-bench", method, baseline]) == 0
    assert "math_reasoning" in capsys.readouterr().out
