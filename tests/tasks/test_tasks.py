"""Which prompts a task asks: limits, ids, sources, and what its yaml files say."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.errors import UserError
from bench.records.model import Prompt
from bench.tasks import spec_bench
from bench.tasks.spec_bench import SUBTASKS, QuestionTask
from bench.tasks.task import SourceName, select

CONF = Path(__file__).resolve().parents[2] / "conf" / "task"


def prompts(**counts: int) -> list[Prompt]:
    """`counts` prompts per subtask, called a0, a1, ..., b0, ..."""
    return [Prompt(f"{name}{i}", name, ("text",)) for name, n in counts.items() for i in range(n)]


def chosen_ids(limit: int, **counts: int) -> list[str]:
    return [prompt.id for prompt in select(prompts(**counts), limit)]


def per_subtask(limit: int, **counts: int) -> dict[str, int]:
    chosen = select(prompts(**counts), limit)
    return {name: sum(prompt.subtask == name for prompt in chosen) for name in counts}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(2, {"a": 1, "b": 1}), (6, {"a": 3, "b": 3}), (5, {"a": 3, "b": 2}), (14, {"a": 10, "b": 4})],
    ids=["one each", "even", "odd one to the first", "a small subtask leaves its share to the others"],
)
def test_limit_is_spread_over_subtasks(limit: int, expected: dict[str, int]) -> None:
    assert per_subtask(limit, a=20, b=4) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 7, 80, 161], ids="n={}".format)
def test_a_larger_limit_holds_the_smaller_ones_prompts(n: int) -> None:
    previous: set[str] = set()
    for limit in range(1, n + 1):
        chosen = set(chosen_ids(limit, a=n))
        assert len(chosen) == limit
        assert previous < chosen
        previous = chosen


def test_a_small_limit_meets_most_of_mt_benchs_eight_categories() -> None:
    places = [int(name.removeprefix("a")) for name in chosen_ids(8, a=80)]  # ten questions per category
    assert len({place // 10 for place in places}) >= 6


def test_the_choice_keeps_the_files_order() -> None:
    chosen = chosen_ids(9, a=20, b=20)
    assert chosen == [prompt.id for prompt in prompts(a=20, b=20) if prompt.id in chosen]


def test_a_limit_beyond_the_task_asks_everything() -> None:
    assert len(select(prompts(a=3), 10)) == 3


def test_ids_come_before_the_limit_and_match_as_numbers() -> None:
    numbered = [Prompt(str(i), "a", ("text",)) for i in range(5)]
    assert [prompt.id for prompt in select(numbered, ids=[3, "1"])] == ["1", "3"]
    assert len(select(numbered, 1, ids=[3, "1"])) == 1


def test_an_unknown_id_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"task.ids names 'alpha9'.*\nDid you mean 'alpha\d'"):
        select(prompts(alpha=3), ids=["alpha9"])


@pytest.mark.parametrize("limit", [0, -1, True, "ten", 1.5])
def test_a_limit_must_be_a_positive_integer(limit: int) -> None:
    with pytest.raises(UserError, match=r"task\.limit must be an integer"):
        QuestionTask("qa", "official", limit=limit)


@pytest.mark.parametrize("ids", ["81", 81, []], ids=["text", "number", "empty"])
def test_ids_must_be_a_list(ids: list[str | int]) -> None:
    with pytest.raises(UserError, match=r"task\.ids must be a list"):
        QuestionTask("qa", "official", ids=ids)


def test_an_unknown_source_or_subtask_is_refused_with_the_options() -> None:
    with pytest.raises(UserError, match="Did you mean 'official'"):
        QuestionTask("qa", "oficial")
    with pytest.raises(UserError, match="Did you mean 'translation'"):
        QuestionTask("qa", "official", ["translations"])
    with pytest.raises(UserError, match="must be a list of subtasks"):
        QuestionTask("qa", "official", "qa")  # type: ignore[arg-type]


@pytest.fixture
def builtin_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two built-in questions per subtask."""
    file = tmp_path / "builtin.jsonl"
    row = '{{"id": "{0}-{1}", "subtask": "{0}", "turns": ["Q"], "checks": [{{"kind": "open"}}]}}'
    file.write_text("\n".join(row.format(subtask, i) for subtask in SUBTASKS for i in range(2)))
    monkeypatch.setattr(spec_bench, "BUILTIN_FILE", file)
    return file


@pytest.mark.usefixtures("builtin_file")
def test_builtin_questions_serve_every_subtask() -> None:
    loaded = QuestionTask("qa", "builtin", ["qa"]).load()
    assert [prompt.id for prompt in loaded.prompts] == ["qa-0", "qa-1"]
    assert loaded.prompts[0].checks == ({"kind": "open"},)
    assert loaded.source.name == SourceName.BUILTIN
    assert not loaded.source.partial


@pytest.mark.usefixtures("builtin_file")
def test_a_limit_marks_the_task_partial() -> None:
    source = QuestionTask("spec_bench", "builtin", limit=6).load().source
    assert source.n == 6
    assert source.partial


def test_missing_builtin_questions_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_bench, "BUILTIN_FILE", tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match=r"missing from this installation.*\n.*task.path"):
        QuestionTask("qa", "builtin").load()


@pytest.mark.usefixtures("builtin_file")
@pytest.mark.parametrize("name", [*SUBTASKS, "spec_bench"])
def test_each_yaml_builds_its_task(name: str) -> None:
    model = {"prompts": "builtin", "questions": None}
    tree = OmegaConf.create({"model": model, "task": OmegaConf.load(CONF / f"{name}.yaml")})
    task = instantiate(tree.task, _convert_="all")
    assert task.name == name
    expected = set(SUBTASKS) if name == "spec_bench" else {name}
    assert {prompt.subtask for prompt in task.load().prompts} == expected
