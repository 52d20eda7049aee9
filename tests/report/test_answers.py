"""Answer files of the original harness: what we write scores there as here, and what others wrote is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.metrics.counts import acceptance_length
from bench.metrics.speedups import speed_ratio
from bench.records.model import Arm
from bench.report.__main__ import main
from bench.report.answers import read_answers, write_answers
from bench.report.rescore import lists_prefill, scores, scores_text, warnings
from tests.report.boards import SUBTASKS, Plan, save, stored

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
        score.subtask: score for score in scores(read_answers(method), read_answers(baseline), words)
    }
    speedup, accepted = original_scores(method, baseline, subtask)
    assert by_subtask[subtask].their_speedup == pytest.approx(speedup, rel=1e-12)
    assert by_subtask[subtask].their_accepted == pytest.approx(accepted, rel=1e-12)


def test_imported_figures_are_those_of_the_records(files: list[Path]) -> None:
    samples = [sample for sample in stored(Plan("kangaroo", 1.9, 6, 0.72)).samples if sample.repeat == 0]
    method = [sample for sample in samples if sample.arm is Arm.METHOD]
    baseline = [sample for sample in samples if sample.arm is Arm.BASELINE]
    overall = scores(read_answers(files[1]), read_answers(files[0]), words)[-1]
    assert overall.their_speedup == pytest.approx(speed_ratio(baseline, method), rel=1e-12)
    assert overall.swift_speedup is not None
    assert overall.their_speedup is not None
    assert overall.their_speedup > 1.5 * overall.swift_speedup  # 20 words of text were 40 ids
    assert overall.acceptance_length == pytest.approx(acceptance_length(method), rel=1e-12)
    assert overall.their_accepted == pytest.approx(acceptance_length(method), rel=1e-12)


def test_the_baseline_against_itself_is_one_only_when_corrected(files: list[Path]) -> None:
    plain = read_answers(files[0])
    overall = scores(plain, plain, lambda text: words(text) - 1)[-1]  # the end token is lost
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
        ("{}\n", "line 1 is no answer: choices must be a list of objects"),
        ("[]\n", "line 1 is no answer: it is no JSON object"),
        ("[" * 100_000, "line 1 is no answer: not JSON"),
        (json.dumps(record(wall_time=[1.0])), "differ in length"),
        (json.dumps(record(wall_time=[0.0, 1.0])), r"wall_time must be above 0, got \[0.0, 1.0\]"),
        (
            json.dumps(record(wall_time=[float("nan"), 1.0])),
            "must hold numbers of at least 0, got nan",
        ),
        (
            json.dumps(record(wall_time=[float("inf"), 1.0])),
            "must hold numbers of at least 0, got inf",
        ),
        (json.dumps(record(new_tokens=[-4, 5])), "hold whole numbers of at least 0, got -4"),
        (
            json.dumps(record(new_tokens=[4.5, 5])),
            "hold whole numbers of at least 0, got 4.5",
        ),
        (json.dumps(record(new_tokens=["4", 5])), "new_tokens must hold whole numbers"),
        (
            json.dumps(record() | {"question_id": None}),
            "question_id must be text or a whole",
        ),
        (json.dumps(record() | {"category": "\ud800"}), "category must be text"),
    ],
)
def test_other_files_are_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_answers(path)


@pytest.mark.parametrize(
    ("steps", "length"),
    [
        ([[1, 2, 3], [1, 2, 3]], 2.0),  # the prefill is the first step
        ([[2, 2, 2]], 6 / 4),  # EAGLE: it is no step, yet the sum equals the tokens
        ([[1, 2, 3], [3, 3]], 12 / 7),  # one list that begins with two tokens or more tells for the file
        ([[1.0, 2.0, 3.0], [1.7, 2.3, 2.0]], 2.0),  # means are not cut to whole numbers
    ],
)
def test_whether_the_prefill_is_listed_follows_from_how_lists_begin(
    tmp_path: Path, steps: list[list[float]], length: float
) -> None:
    lines = [
        record(turns=["text"], idxs=[3], new_tokens=[6], wall_time=[2.0], accept_lengths=listed)
        | {"question_id": number}
        for number, listed in enumerate(steps)
    ]
    answers = read_answers(save_lines(tmp_path / "a.jsonl", *lines))
    assert scores(answers)[-1].acceptance_length == pytest.approx(length)
    is_guessed = any("--prefill listed" in note for note in warnings(answers, []))
    assert is_guessed is not lists_prefill(answers)
    listed = scores(answers, is_prefill_listed=True)[-1].acceptance_length
    assert listed == pytest.approx(sum(map(sum, steps)) / sum(map(len, steps)))


def test_a_file_of_swift_is_read_without_its_summary(tmp_path: Path) -> None:
    choice = {"decoding_steps": [2], "new_tokens": [6], "wall_time": [2.0], "accept_lengths": [3, 3]}
    lines = [{"model_id": "m", "choices": [choice | {"turns": text}]} for text in ("one", "two")]
    summary = {"Mean accepted tokens": 3.0, "Token acceptance rate": 0.75}
    answers = read_answers(save_lines(tmp_path / "a.jsonl", *lines, summary))
    assert [answer.texts for answer in answers] == [("one",), ("two",)]
    assert [answer.question_id for answer in answers] == ["line 1", "line 2"]


def test_a_byte_order_mark_and_a_line_separator_inside_a_text_are_no_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = json.dumps(record(turns=["a\u2028b", "c\x85d"]), ensure_ascii=False)
    path.write_text(f"\ufeff{line}\n", encoding="utf-8")
    assert read_answers(path)[0].texts == ("a\u2028b", "c\x85d")


def test_ids_that_look_like_numbers_stay_apart(tmp_path: Path) -> None:
    run = stored(Plan("kangaroo", questions=2, subtasks=("qa",)))
    names = dict(zip(dict.fromkeys(sample.prompt_id for sample in run.samples), ("7", "007"), strict=True))
    samples = tuple(replace(sample, prompt_id=names[sample.prompt_id]) for sample in run.samples)
    files = write_answers(replace(run, samples=samples), tmp_path)
    assert {answer.question_id for answer in read_answers(files[0])} == {"7", "007"}


def test_an_export_stays_in_its_folder(tmp_path: Path) -> None:
    run = stored(Plan("kangaroo"))
    outside = replace(run, run=replace(run.run, method="../../../x"))
    with pytest.raises(UserError, match="cannot be part of a file name"):
        write_answers(outside, tmp_path / "out")


def test_both_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(stored(Plan("kangaroo")), tmp_path)
    assert main(["export-spec-bench", str(folder), "--output", str(tmp_path / "out")]) == 0
    baseline, method, *_ = capsys.readouterr().out.split()
    assert main(["import-spec-bench", method, baseline]) == 0
    assert "math_reasoning" in capsys.readouterr().out
