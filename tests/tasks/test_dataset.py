"""Data sets of the papers: rows to prompts, examples in front, draws, and the files beside the checkout."""

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from bench.compose.components import Component
from bench.errors import UserError
from bench.tasks.dataset import DatasetTask, draw_places
from bench.tasks.longbench import LongBenchTask
from bench.tasks.rows import PublishedRows, Row
from bench.tasks.task import SourceName
from tests.harness import CONF, composed_settings

SOURCE = PublishedRows("org/set", rows=3)
TRAIN = [{"question": f"T{i}?", "answer": f"t{i}"} for i in range(20)]
TEST = [{"question": f"Q{i}?", "answer": f"a{i}"} for i in range(3)]
NAMES = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))


def task(**given: Any) -> DatasetTask:
    settled = {"source": SOURCE, "prompt": "Question: {{ question }}\nAnswer:", "answer": "{{ answer }}"}
    return DatasetTask("set", **settled | given)


def texts(made: DatasetTask) -> list[str]:
    return [prompt.turns[0] for prompt in made.load().prompts]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub, with two splits of one data set."""

    def load_dataset(*given: Any, split: str, **more: Any) -> Sequence[Row]:
        return {"test": TEST, "train": TRAIN}[split]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.fixture
def local(tmp_path: Path) -> Callable[[Sequence[Row], str], str]:
    """Writes rows to a file of the kind that its name ends in."""

    def write(rows: Sequence[Row], name: str) -> str:
        path, lines = tmp_path / name, "\n".join(map(json.dumps, rows)).encode()
        if name.endswith(".parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
        else:
            content = {"jsonl": lines, "gz": gzip.compress(lines), "json": json.dumps(rows).encode()}
            path.write_bytes(content[name.rpartition(".")[2]])
        return str(path)

    return write


@pytest.mark.usefixtures("published")
def test_a_row_becomes_a_prompt_and_a_reference() -> None:
    loaded = task().load()
    assert [prompt.turns for prompt in loaded.prompts] == [(f"Question: Q{i}?\nAnswer:",) for i in range(3)]
    assert [prompt.references for prompt in loaded.prompts] == [("a0",), ("a1",), ("a2",)]
    assert [prompt.id for prompt in loaded.prompts] == ["1", "2", "3"]
    assert {prompt.subtask for prompt in loaded.prompts} == {"set"}
    assert (loaded.source.name, loaded.source.location) == (SourceName.PUBLISHED, "org/set test")


@pytest.mark.usefixtures("published")
def test_worked_examples_stand_before_every_question_and_follow_the_seed() -> None:
    first, second, _ = (text.split("\n\n") for text in texts(task(shots=2)))
    assert len(first) == 3
    assert first[:2] == second[:2]
    assert all(example.startswith("Question: T") and " t" in example for example in first[:2])
    assert first[2] == "Question: Q0?\nAnswer:"
    assert texts(task(shots=2)) == texts(task(shots=2)) != texts(task(shots=2, seed=1))


@pytest.mark.parametrize("name", ["set.jsonl", "set.jsonl.gz", "set.json", "set.parquet"])
def test_a_local_file_may_come_in_any_of_its_formats(
    local: Callable[[Sequence[Row], str], str], name: str
) -> None:
    loaded = task(path=local(TEST, name)).load()
    assert [prompt.references[0] for prompt in loaded.prompts] == ["a0", "a1", "a2"]
    assert loaded.source.name == SourceName.OWN  # its hash is not the published file's


@pytest.mark.usefixtures("published")
def test_examples_of_a_local_file_come_from_a_local_file(local: Callable[[Sequence[Row], str], str]) -> None:
    path, train = local(TEST, "test.jsonl"), local(TRAIN, "train.jsonl")
    assert texts(task(path=path, shots=2, shots_path=train)) == texts(task(shots=2))


def test_a_draw_is_the_one_that_datasets_makes() -> None:
    shuffled = datasets.Dataset.from_dict({"place": list(range(500))}).shuffle(seed=42)
    assert draw_places(500, 40, 42) == sorted(shuffled["place"][:40])
    assert draw_places(3, 40, 42) == draw_places(3, None, 42) == [0, 1, 2]


@pytest.mark.usefixtures("published")
def test_a_draw_a_limit_and_ids_narrow_what_is_asked() -> None:
    kept = [str(1 + int(place)) for place in sorted(np.random.default_rng(42).permutation(3)[:2])]
    loaded = task(draw=2).load()
    assert [prompt.id for prompt in loaded.prompts] == kept
    assert loaded.source.partial
    assert len(task(limit=1).load().prompts) == 1
    assert [prompt.id for prompt in task(ids=[2]).load().prompts] == ["2"]


def test_what_a_task_will_ask_is_known_before_it_is_fetched(
    local: Callable[[Sequence[Row], str], str],
) -> None:
    assert task().unfetched_turns() == 3
    assert task(draw=2).unfetched_turns() == 2
    assert task(limit=1).unfetched_turns() == 1
    assert task(path=local(TEST, "test.jsonl")).unfetched_turns() is None


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("given", "what", "fix"),
    [
        ({"prompt": "{{ text }}"}, "row 1 of task=set does not fit task.prompt", "fields: question, answer"),
        ({"prompt": "{{ question"}, "task.prompt cannot be filled in", "Write Jinja"),
        ({"prompt": " "}, "row 1 of task=set: its prompt is empty", "drop the row"),
        ({"id": "same"}, "id 'same' belongs to several rows", "task.id=null"),
        ({"shots": 21}, "split train holds 20 rows", "task.shots=20"),
        ({"shots": 1, "answer": None}, "has no answers to make examples of", "task.shots=0"),
        ({"shots": 1, "path": "x.jsonl"}, "needs worked examples beside task.path", "task.shots_path=FILE"),
        ({"shots": -1}, "task.shots must be at least 0", "task.shots=0"),
        ({"draw": 0}, "task.draw must be at least 1", "task.draw=1"),
        ({"path": "absent.jsonl"}, "task.path=absent.jsonl: no such file", "Check the name"),
    ],
)
def test_a_mistake_names_the_row_or_setting_and_the_fix(given: dict[str, Any], what: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        task(**given).load()
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_without_a_network_the_fix_is_a_local_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: Any, **more: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", refused)
    with pytest.raises(UserError, match=r"split test of org/set could not be fetched: offline\n.*task\.path"):
        task().load()


@pytest.mark.parametrize("content", [b"PAR1 but cut", b"[1, 2]", b"[oops", b"\n", b"{oops"])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows"
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        task(path=str(path)).load()


@cache
def composed(name: str) -> Component:
    """The task as its yaml says; composing takes a while, so once for all tests."""
    needs_path = name in ("jsonl", "speed_bench")
    return composed_settings(f"task={name}", *(["task.path=my.jsonl"] if needs_path else [])).task


def built(name: str, **given: Any) -> Any:
    """That task with some settings changed."""
    component = composed(name)
    return replace(component, params={**component.params, **given}).build()


@pytest.mark.parametrize("name", NAMES)
def test_every_task_composes_and_builds(name: str) -> None:
    assert built(name).name == composed(name).name == name


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "rows:" in (CONF / f"task/{name}.yaml").read_text()]
)
def test_a_papers_task_says_how_much_it_asks(name: str) -> None:
    assert built(name).unfetched_turns() >= (30 if name.startswith("aime") else 100)


@pytest.mark.parametrize(
    ("name", "row", "prompt"),
    [
        (
            "aqua",
            {"question": "How?", "options": ["A)21", "B)22"], "rationale": "So", "correct": "A"},
            "Q: How? Answer Choices: (a) 21 (b) 22\nA:",
        ),
        ("cnn_dm", {"id": "x", "article": "News", "highlights": "N"}, "Article: News\nSummary:"),
        ("cnn_dm_lm", {"id": "x", "article": "word " * 150}, " ".join(["word"] * 100)),
        ("xsum", {"id": "x", "document": "News", "summary": "N"}, "Article: News\nSummary:"),
        ("humaneval_tabs", {"task_id": "x", "prompt": "def f():\n    pass"}, "def f():\n\tpass"),
        (
            "self_instruct",
            {"id": "x", "instruction": "Do", "instances": [{"input": "it", "output": ""}]},
            "Do\n\nit",
        ),
        ("self_instruct", {"id": "x", "instruction": "Do", "instances": [{"input": "", "output": ""}]}, "Do"),
        ("wizardlm", {"idx": 1, "Skill": "Math", "Instruction": "Do"}, "Do"),
        ("mgsm", {"question": "Q?", "answer_number": 3}, "Q?"),
        ("tinystories", {"text": "once " * 40}, "Story: " + " ".join(["once"] * 32)),
    ],
)
def test_a_data_sets_rows_are_asked_in_the_papers_words(
    local: Callable[[Sequence[Row], str], str], name: str, row: Row, prompt: str
) -> None:
    shots = {"shots": 0} if "shots" in composed(name).params else {}
    (question,) = built(name, path=local([row], "rows.jsonl"), **shots).load().prompts
    assert question.turns == (prompt,)


def longbench(tmp_path: Path, **given: Any) -> LongBenchTask:
    rows, wording = tmp_path / "rows.jsonl", tmp_path / "dataset2prompt.json"
    rows.write_text(json.dumps({"_id": "x", "input": "Q?", "context": "{input}", "answers": ["A", "B"]}))
    wording.write_text(json.dumps({"hotpotqa": "Read.\n{context}\n{input}"}))
    settled: dict[str, Any] = {"subset": "hotpotqa", "path": str(rows), "prompts_path": str(wording)}
    return LongBenchTask("longbench", budgets={"hotpotqa": 32, "qasper": 128}, **settled | given)


def test_longbench_is_asked_in_its_own_words(tmp_path: Path) -> None:
    (question,) = longbench(tmp_path).load().prompts
    assert (question.id, question.subtask, question.references) == ("x", "hotpotqa", ("A\nB",))
    assert question.turns == ("Read.\n{input}\nQ?",)  # braces inside a context are text
    assert longbench(tmp_path).unfetched_turns() is None


def test_a_subset_that_longbench_or_its_wording_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.subset=hotpot is unknown\nDid you mean 'hotpotqa'"):
        longbench(tmp_path, subset="hotpot")
    with pytest.raises(UserError, match="has no prompt for qasper"):
        longbench(tmp_path, subset="qasper").load()


def test_longbenchs_budget_follows_its_subset() -> None:
    made = composed_settings("task=longbench", "task.subset=narrativeqa", "max_new_tokens=${task.budget}")
    assert made.max_new_tokens == 128


@pytest.mark.parametrize(
    ("name", "file", "count", "first", "kind"),
    [
        ("gsm8k", "gsm8k/test.jsonl", 1319, "1", "published"),
        ("humaneval", "humaneval/HumanEval.jsonl.gz", 164, "HumanEval/0", "published"),
        ("humaneval_tabs", "humaneval/HumanEval.jsonl.gz", 164, "HumanEval/0", "published"),
        ("koala", "koala/koala_test_set.jsonl", 180, "koala_0", "published"),
        ("mt_bench", "mt_bench/question.jsonl", 80, "81", "modified"),
        ("spec_bench", "spec_bench/question.jsonl", 480, "81", "official"),
    ],
)
def test_the_files_beside_the_checkout_load_in_full(
    shared_data: Path, name: str, file: str, count: int, first: str, kind: str
) -> None:
    loaded = built(name, path=str(shared_data / file), limit=None).load()
    assert (len(loaded.prompts), loaded.prompts[0].id, loaded.source.name) == (count, first, kind)
    assert not loaded.source.partial
