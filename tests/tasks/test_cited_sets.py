"""Sets that papers cite today: their rows as prompts with checks, from files, from folders, and in parts."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from bench.compose.components import Component
from bench.errors import UserError
from bench.records.model import Prompt
from bench.tasks.checkers import is_right
from bench.tasks.choices import ShuffledChoices
from bench.tasks.rows import read_rows
from bench.tasks.speed_bench import CATEGORIES, CONFIGS, ENTROPIES
from tests.harness import composed_settings

GPQA = {
    "Question": "Which is right?\n",
    "Correct Answer": "this one",
    "Incorrect Answer 1": "that",
    "Incorrect Answer 2": "those",
    "Incorrect Answer 3": "these",
}


@cache
def composed(name: str) -> Component:
    return composed_settings(f"task={name}", *(["task.path=x"] if name == "speed_bench" else [])).task


def load(name: str, **given: Any) -> tuple[Prompt, ...]:
    """The prompts of a task as its yaml says, with some settings changed."""
    component = composed(name)
    return tuple(replace(component, params={**component.params, **given}).build().load().prompts)


def lines(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_math_500_is_checked_by_its_box(tmp_path: Path) -> None:
    row = {
        "problem": "1/4+1/4?",
        "solution": "So",
        "answer": r"\frac{1}{2}",
        "unique_id": "test/algebra/1.json",
    }
    (prompt,) = load("math500", path=lines(tmp_path / "m.jsonl", row))
    assert prompt.id == "test/algebra/1.json"
    assert prompt.turns[0].startswith("1/4+1/4?\n\nReason step by step")
    assert r"\boxed{}" in prompt.turns[0]
    assert is_right(prompt.checks[0], r"Then \boxed{0.5}") is True
    assert is_right(prompt.checks[0], r"Then \boxed{2}") is False


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "P?", "answer": "33", "solution": "S", "id": 60},
        {"Problem": "P?", "Answer": 33, "Solution": "S", "ID": "2024-I-1"},
        {"question": "P?", "answer": "033"},
    ],
    ids=["HuggingFaceH4", "Maxwell-Jia", "opencompass"],
)
@pytest.mark.parametrize("name", ["aime24", "aime25"])
def test_aime_comes_in_several_layouts(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    (prompt,) = load(name, path=lines(tmp_path / "a.jsonl", row))
    assert prompt.turns[0].startswith("P?\n")
    assert is_right(prompt.checks[0], r"\boxed{033}") is True


@pytest.mark.parametrize("key", ["text", "prompt"], ids=["full", "sanitized"])
def test_mbpp_shows_its_tests(key: str, tmp_path: Path) -> None:
    row = {
        "task_id": 11,
        key: "Add one.",
        "code": "def f(x): ...",
        "test_list": ["assert f(1) == 2", "assert f(2) == 3"],
    }
    (prompt,) = load("mbpp", path=lines(tmp_path / "m.jsonl", row))
    assert (prompt.id, prompt.checks) == ("11", ())
    assert "task: Add one. Your code" in prompt.turns[0]
    assert prompt.turns[0].endswith("assert f(1) == 2\nassert f(2) == 3")


def test_livecodebench_asks_by_difficulty_and_by_kind_of_program(tmp_path: Path) -> None:
    rows = [
        {"question_id": "abc387_b", "question_content": "Sum.", "difficulty": "easy", "starter_code": ""},
        {
            "question_id": "3000",
            "question_content": "Sort.",
            "difficulty": "hard",
            "starter_code": "class S:",
        },
    ]
    first, second = load("livecodebench", path=lines(tmp_path / "l.jsonl", *rows))
    assert (first.subtask, second.subtask) == ("easy", "hard")
    assert "reads from standard input" in first.turns[0]
    assert "class S:" in second.turns[0]
    assert "standard input" not in second.turns[0]


def test_gpqa_reads_the_authors_csv_and_checks_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "gpqa_diamond.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(GPQA))
        writer.writeheader()
        writer.writerows([{**GPQA, "Question": f"Which, {number}?"} for number in range(40)])
    prompts = load("gpqa", path=str(path))
    for prompt in prompts:
        letter = next(letter for letter in "ABCD" if f"({letter}) this one" in prompt.turns[0])
        assert is_right(prompt.checks[0], f"The answer is ({letter})") is True
        assert prompt.references == (letter,)
    assert len(Counter(prompt.references for prompt in prompts)) == 4  # no letter is always right
    assert load("gpqa", path=str(path)) == prompts


def test_options_keep_their_order_where_the_row_has_letters() -> None:
    row = {"question": "Q?", "options": ["x", "y"], "answer": "b"}
    assert ShuffledChoices()(row)["letter"] == "B"
    assert ShuffledChoices()({**row, "choices": None, "answer": 0})["letter"] == "A"
    with pytest.raises(ValueError, match="answer must be one of A, B, got 'E'"):
        ShuffledChoices()({**row, "answer": "E"})


def test_the_order_of_options_follows_the_seed_and_not_the_place() -> None:
    orders = [ShuffledChoices(seed)(GPQA)["options"] for seed in range(20)]
    assert len({tuple(order) for order in orders}) > 5
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


def test_a_row_of_another_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 1 of task=gpqa has another layout: answer must be"):
        load("gpqa", path=lines(tmp_path / "g.jsonl", {"question": "Q?"}))


def test_a_check_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", {"problem": "P?", "answer": "1", "unique_id": "1"})
    with pytest.raises(UserError, match=r"task\.check cannot be used: check kind must be"):
        load("math500", path=path, check={"kind": "boxes", "value": "1"})


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    row = {"problem": "P?", "answer": "1", "unique_id": "u"}
    saved = datasets.Dataset.from_list([row])
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": saved, "train": saved}).save_to_disk(tmp_path / "several")
    assert load("math500", path=str(tmp_path / "one")) == load("math500", path=str(tmp_path / "several"))
    datasets.DatasetDict({"train": saved}).save_to_disk(tmp_path / "other")
    with pytest.raises(UserError, match=r"has no split 'test', only train"):
        load("math500", path=str(tmp_path / "other"))


def test_a_copy_of_a_repository_is_read_by_its_split(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split, count in (("test", 2), ("train", 5)):
        table = pyarrow.Table.from_pylist([{"n": number} for number in range(count)])
        pyarrow.parquet.write_table(table, data / f"{split}-00000-of-00001.parquet")
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert len(read_rows(str(tmp_path))[0]) == 2
    assert len(read_rows(str(tmp_path), split="train")[0]) == 5
    assert len(read_rows(str(tmp_path), split="all")[0]) == 7
    assert read_rows(str(tmp_path))[1] == read_rows(str(data / "test-00000-of-00001.parquet"))[1]


def test_a_copy_with_several_configurations_is_read_by_the_tasks_own(tmp_path: Path) -> None:
    for config, count in (("full", 3), ("sanitized", 2)):
        (tmp_path / config).mkdir()
        rows = [{"task_id": n, "text": "Do.", "code": "", "test_list": ["assert f()"]} for n in range(count)]
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, tmp_path / config / "test-00000-of-00001.parquet")
        pyarrow.parquet.write_table(table, tmp_path / config / "prompt-00000-of-00001.parquet")
    assert len(load("mbpp", path=str(tmp_path))) == 3
    for name in ("gpqa_main", "gpqa_diamond"):
        lines(tmp_path / f"{name}.jsonl", {**GPQA, "Question": f"{name}?"})
    (prompt,) = load("gpqa", path=str(tmp_path))
    assert prompt.turns[0].startswith("gpqa_diamond?")


def test_a_folder_without_rows_or_with_two_kinds_of_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no rows"):
        read_rows(str(tmp_path))
    lines(tmp_path / "test.jsonl", {"n": 1})
    (tmp_path / "test.csv").write_text("n\n1\n")
    with pytest.raises(UserError, match="holds rows as csv and jsonl"):
        read_rows(str(tmp_path))


def test_a_broken_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n\n1,2\n")
    with pytest.raises(UserError, match="more fields than its header"):
        read_rows(str(tmp_path / "a.csv"))
    (tmp_path / "b.csv").write_bytes(b"n\n\xff\n")
    with pytest.raises(UserError, match="is not a CSV file"):
        read_rows(str(tmp_path / "b.csv"))


def speed(folder: Path, config: str, categories: tuple[str, ...], turns: tuple[str, ...] = ("Q?",)) -> None:
    """What NVIDIA's prepare_data.py writes."""
    rows = [
        {
            "question_id": f"id{place}",
            "category": name,
            "sub_category": None,
            "turns": list(turns),
            "source": "s",
        }
        for place, name in enumerate(categories)
    ]
    (folder / config).mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / config / "test.parquet")


def test_speed_bench_has_a_subtask_per_category_and_its_turns(tmp_path: Path) -> None:
    speed(tmp_path / "speed", "qualitative", CATEGORIES, ("First?", "Second?"))
    prompts = load("speed_bench", path=str(tmp_path))
    assert [prompt.subtask for prompt in prompts] == list(CATEGORIES)
    assert {prompt.turns for prompt in prompts} == {("First?", "Second?")}
    assert prompts == load("speed_bench", path=str(tmp_path / "speed" / "qualitative" / "test.parquet"))
    assert [p.subtask for p in load("speed_bench", path=str(tmp_path), categories=["math", "qa"])] == [
        "math",
        "qa",
    ]


def test_several_lengths_of_speed_bench_make_one_task(tmp_path: Path) -> None:
    for config in CONFIGS[1:3]:
        speed(tmp_path, config, ENTROPIES)
    prompts = load("speed_bench", path=str(tmp_path), configs=["throughput_1k", "throughput_2k"])
    assert [prompt.id for prompt in prompts][::3] == ["throughput_1k/id0", "throughput_2k/id0"]
    assert {prompt.subtask for prompt in prompts} == set(ENTROPIES)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"path": None}, "needs prepared files"),
        ({"configs": ["throughput_4k"]}, r"task\.configs names 'throughput_4k'"),
        ({"configs": []}, r"task\.configs must be a list"),
        ({"categories": ["poetry"]}, r"task\.categories names 'poetry'"),
        ({"configs": ["throughput_1k", "qualitative"]}, "has no folder throughput_1k"),
        ({"categories": ["mixed"]}, r"has no question of task\.categories"),
    ],
)
def test_a_mistake_in_speed_bench_is_named(given: dict[str, Any], what: str, tmp_path: Path) -> None:
    speed(tmp_path, "qualitative", CATEGORIES)
    with pytest.raises(UserError, match=what):
        load("speed_bench", **{"path": str(tmp_path), **given})


def test_placeholders_are_refused_with_the_fix(tmp_path: Path) -> None:
    turn = "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE USING SPECDEC_BENCH"
    speed(tmp_path, "qualitative", ("math",), (turn,))
    with pytest.raises(UserError, match=r"holds a placeholder.*\nPrepare them with.*prepare_data\.py"):
        load("speed_bench", path=str(tmp_path))
