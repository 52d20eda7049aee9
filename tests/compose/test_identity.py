"""Run ids: two runs that differ in anything that changes ids or times have different ids, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.compose.identity import run_identity
from bench.compose.schema import run_id
from bench.compose.settings import Settings, settings_from
from bench.compose.workbench import prepare_run
from bench.errors import UserError
from bench.records.model import Run, original_settings
from bench.tasks.tokenizer import ends_beside_config
from tests.harness import composed_settings, composed_tree, save_prompts, settings_for

KEYS = {
    "method",
    "method_weights",
    "task",
    "questions",
    "model",
    "model_weights",
    "template",
    "sampling",
    "runtime",
    "history",
    "max_new_tokens",
    "seed",
}


def described(settings: Settings) -> Run:
    return prepare_run(settings).run


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values of nested mappings and lists; an empty one counts as a value."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list) and node:
        for index, value in enumerate(node):
            yield from leaves(value, (*path, index))
    else:
        yield path


def changed(identity: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    copy = deepcopy(identity)
    node: Any = copy
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = "something else"
    return copy


def test_an_identity_has_these_parts(model: Path, prompts: Path, results_dir: Path) -> None:
    identity = described(settings_for(model, prompts, results_dir)).identity
    assert set(identity) == KEYS
    assert identity["sampling"] == {"temperature": 0.0, "top_k": 0, "top_p": 1.0}
    assert identity["questions"]
    assert identity["template"]


def test_runs_that_differ_in_any_leaf_of_the_identity_have_different_ids(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    run = described(settings_for(model, prompts, results_dir))
    identity = json.loads(json.dumps(run.identity))
    assert run_id(run.method, run.task, run.model, identity) == run.run_id
    paths = list(leaves(identity))
    ids = {run_id(run.method, run.task, run.model, changed(identity, path)) for path in paths}
    assert len(ids | {run.run_id}) == len(paths) + 1 > 20


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "max_new_tokens=9",
        "sampling.temperature=0.5",
        "sampling.top_k=4",
        "sampling.top_p=0.9",
        "model.template=raw",
        "model.context=100",
        "model.stop_ids=[7]",
        "model.dtype=float16",
        "method.exit_layer=1",
        "method.draft_length=2",
        "task.limit=1",
        "runtime.max_length=100",
        "runtime.dtype=float16",
        "runtime.threads=1",
        "runtime.tier=eager",
        "measure.history=frozen",
        "chat.system=Be brief.",
    ],
)
def test_a_setting_that_changes_ids_or_times_makes_another_run(
    override: str, model: Path, prompts: Path, results_dir: Path
) -> None:
    plain = described(settings_for(model, prompts, results_dir))
    assert described(settings_for(model, prompts, results_dir, override)).run_id != plain.run_id


NEITHER_IDS_NOR_TIMES = {
    "results_dir": "where the records lie",
    "bench.plan": "prints a plan instead",
    "bench.device": "of the plan",
    "bench.isolate": "the same run in a process of its own",
    "measure.repeats": "more samples of the same run",
    "measure.warmup.max_rounds": "before the measurement",
    "measure.warmup.tolerance": "before the measurement",
    "measure.level": "of intervals, computed from the samples",
    "measure.resamples": "of intervals, computed from the samples",
    "measure.eager": "another arm beside the two",
    "measure.control": "another arm beside the two",
    "measure.sessions": "more samples of the same run",
    "methods": "read before this step; each method's settings are part of the identity of such a run",
    "tuned": "read before this step; the settings that it holds are part of the identity",
    "task.path": "where the questions lie; their hash is part of the identity",
    "model.path": "where the model lies; its hash is part of the identity",
    "model.modules": "where modules lie; the hash of those of the method is part of the identity",
    "model.frequent_tokens": "where the list lies; its hash is, if the method drafts from it",
    "method.frequent_tokens": "as model.frequent_tokens",
    "model.questions": "the default of task.limit, which is part of the identity",
    "model.draft_vocab": "the default of method.draft_vocab, which is part of the identity",
}
"""Keys that make no other run, and why."""
DEFAULTS_OF_OTHERS = {"model.draft_vocab", "model.questions"}
"""Keys that a method or a task takes as default of its own, where it has such a setting."""
NAMES = ["x", "int8", "raw", "static", "masked", "cpu", "float16", "random", "official", "frozen", "v100"]
CANDIDATES = [1, 3, 0.25, 0.75, *NAMES, [7], True, {"a": 1}]
"""Values of which every key takes one; the first that the settings accept is tried."""


@pytest.mark.parametrize("method", ["kangaroo", "swift", "hamburger", "token_recycling", "two_model"])
def test_every_key_makes_another_run_unless_it_changes_neither_ids_nor_times(method: str) -> None:
    choice = "task=jsonl", f"method={method}", "model=tiny", "task.path=q.jsonl", "method.draft_length=3"
    composed, choices = composed_tree(*choice[: 5 if method in ("kangaroo", "two_model") else 4])
    composed.model.name, composed.model.prompts = "named", "natural"  # else they follow from the path
    if "weights" in composed.method:
        composed.method.weights = None
    known = identity_of(settings_from(composed, choices))
    keys = [".".join(map(str, path)) for path in leaves(OmegaConf.to_container(composed, resolve=True))]
    assert len(keys) > 35
    if method != "kangaroo":  # what is not the method's is the same for all
        keys = [key for key in keys if key.startswith("method.")]
    same = set()
    for key in keys:
        for value in CANDIDATES:
            other = deepcopy(composed)
            OmegaConf.set_struct(other, False)
            try:
                OmegaConf.update(other, key, value)
                identity = identity_of(settings_from(other, choices))
            except (UserError, OmegaConfBaseException):
                continue
            if OmegaConf.select(composed, key) != OmegaConf.select(other, key):
                break
        else:
            pytest.fail(f"no value for {key}")
        if identity == known:
            same.add(key)
    assert same <= set(NEITHER_IDS_NOR_TIMES)
    assert set(NEITHER_IDS_NOR_TIMES) & set(keys) <= same | DEFAULTS_OF_OTHERS


def identity_of(settings: Settings) -> dict[str, Any]:
    """What follows from the settings alone."""
    return run_identity(settings, questions="q", weights="w", template="t", tier="static")


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        (2, None, None),
        (2, 2, None),
        (2, [2], None),
        ([2, 4], [4, 2], None),
        (None, 2, None),
        (2, "none declared", None),
        (2, [2, 4], [2, 4]),
        ([2, 4], 2, [2]),
        (4, 2, [2]),
    ],
)
def test_end_tokens_of_generation_config_count_where_they_are_others(
    config: object, generation: object, ends: list[int] | None, tmp_path: Path
) -> None:
    """The config is part of the hash of the weights, and older runs with the same ends keep their ids."""
    tokenizer = SimpleNamespace(eos_token_id=2)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": config}))
    if generation is not None:
        content = {} if isinstance(generation, str) else {"eos_token_id": generation}
        (tmp_path / "generation_config.json").write_text(json.dumps(content))
    assert ends_beside_config(tmp_path, tokenizer) == ends  # type: ignore[arg-type]


def test_a_task_whose_column_and_format_are_not_set_has_the_id_it_had_before_they_were_settings() -> None:
    given = "task=jsonl", "task.path=q.jsonl", "method=layerskip"
    assert identity_of(composed_settings(*given))["task"] == {
        "_target_": "bench.tasks.jsonl.JsonlTask",
        "name": "jsonl",
        "limit": None,
        "ids": None,
    }
    column = identity_of(composed_settings(*given, "task.column=text"))["task"]
    whole = identity_of(composed_settings(*given, "task.format=whole"))["task"]
    assert (column["column"], whole["format"]) == ("text", "whole")


@pytest.mark.parametrize(("key", "value"), [("attention", "masked"), ("draft_head", "int8")])
def test_later_settings_of_the_runtime_count_only_where_they_are_set(key: str, value: str) -> None:
    """So that older runs, and those of machines without a GPU, keep their ids."""
    given = "task=jsonl", "task.path=q.jsonl", "method=layerskip"
    plain, set_so = (
        identity_of(composed_settings(*given, *more)) for more in ((), (f"runtime.{key}={value}",))
    )
    assert key not in plain["runtime"]
    assert set_so["runtime"] == {**plain["runtime"], key: value}


def test_messages_before_a_question_make_another_run_and_a_system_message_no_more_than_before() -> None:
    settings = composed_settings("task=jsonl", "task.path=q.jsonl", "method=layerskip")
    parts = {"questions": "q", "weights": "w", "template": "t", "tier": "static"}
    plain = run_identity(settings, **parts)  # type: ignore[arg-type]
    assert not {"history_messages", "system_messages"} & set(plain)
    more = run_identity(settings, **parts, has_history=True)  # type: ignore[arg-type]
    assert more == {**plain, "history_messages": True}


def test_other_end_tokens_make_another_run_and_the_same_do_not() -> None:
    settings = composed_settings("task=jsonl", "task.path=q.jsonl", "method=layerskip")
    parts = {"questions": "q", "weights": "w", "template": "t", "tier": "static"}
    plain = run_identity(settings, **parts)  # type: ignore[arg-type]
    assert "end_tokens" not in plain
    more = [run_identity(settings, **parts, ends=ends) for ends in ([2, 4], [2], [])]  # type: ignore[arg-type]
    assert len({json.dumps(identity) for identity in [plain, *more]}) == 4


def test_a_run_that_drafts_any_token_has_the_id_it_had_before_that_was_a_setting(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    plain = described(settings_for(model, prompts, results_dir))
    assert not {"draft_vocab", "frequent_tokens"} & set(plain.identity["method"])
    listed = described(settings_for(model, prompts, results_dir, "method.frequent_tokens=some.json"))
    assert listed.run_id == plain.run_id


def test_the_tokens_that_may_be_drafted_make_another_run(
    model: Path, prompts: Path, results_dir: Path, tmp_path: Path
) -> None:
    ids = {described(settings_for(model, prompts, results_dir)).run_id}
    file = tmp_path / "tokens.json"
    for size, content in ((3, "a list"), (4, "a list"), (4, "another list")):
        file.write_text(content)
        changes = f"method.draft_vocab={size}", f"method.frequent_tokens={file}"
        ids.add(described(settings_for(model, prompts, results_dir, *changes)).run_id)
    moved = file.rename(tmp_path / "moved.json")
    changes = "method.draft_vocab=4", f"method.frequent_tokens={moved}"
    ids.add(described(settings_for(model, prompts, results_dir, *changes)).run_id)
    assert len(ids) == 4


def test_chat_settings_are_part_of_a_run_where_they_are_set_and_stand_in_its_labels(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    plain = described(settings_for(model, prompts, results_dir))
    assert "chat" not in {*plain.identity, *plain.labels}
    template = next(model.glob("*.jinja"))
    text = template.read_text()
    template.write_text(text + "{% if loud %}!{% endif %}")
    given = ["chat.system=Be brief.", "chat.template_args={loud: true}"]
    chosen = [[], given[:1], given[1:], given, ["chat.template_args={loud: false}"]]
    runs = [described(settings_for(model, prompts, results_dir, *changes)) for changes in chosen]
    template.write_text(text)
    assert len({run.run_id for run in runs}) == len(runs)
    assert runs[3].identity["chat"] == {"system": "Be brief.", "template_args": {"loud": True}}
    assert runs[3].labels["chat"] == 'chat.system="Be brief.", loud=true'
    assert runs[3].config["chat"] == runs[3].identity["chat"]


def test_a_question_that_the_chat_template_cannot_write_is_refused_before_the_weights_are_read(
    model: Path, results_dir: Path, tmp_path: Path
) -> None:
    chat = [{"role": role, "content": "Hi"} for role in ("user", "assistant", "tool")]
    (tmp_path / "tool.jsonl").write_text(json.dumps({"id": "q", "messages": chat}) + "\n")
    settings = settings_for(model, tmp_path / "tool.jsonl", results_dir)
    with pytest.raises(UserError, match="question q: the chat template has no form for the results of tools"):
        described(settings)


def test_other_questions_in_the_same_file_make_another_run(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    plain = described(settings_for(model, prompts, results_dir))
    save_prompts(prompts, ["Tell me another story.", "And another?"], ["What is the capital?"])
    assert described(settings_for(model, prompts, results_dir)).run_id != plain.run_id


def test_another_chat_template_of_the_same_model_makes_another_run(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    settings = settings_for(model, prompts, results_dir)
    plain = described(settings)
    template = next(model.glob("*.jinja"))
    text = template.read_text()
    template.write_text(text + "{# changed #} ")
    other = described(settings)
    template.write_text(text)
    assert other.identity["template"] != plain.identity["template"]
    assert other.run_id != plain.run_id
    assert described(settings).run_id == plain.run_id


@pytest.mark.parametrize(
    "override",
    [
        "measure.repeats=5",
        "measure.eager=true",
        "measure.level=0.9",
        "bench.isolate=true",
    ],
)
def test_how_often_a_run_is_measured_makes_no_other_run(
    override: str, model: Path, prompts: Path, results_dir: Path
) -> None:
    plain = described(settings_for(model, prompts, results_dir))
    assert described(settings_for(model, prompts, results_dir, override)).run_id == plain.run_id


def test_the_same_model_and_questions_elsewhere_are_the_same_run(
    model: Path, prompts: Path, results_dir: Path, tmp_path: Path
) -> None:
    plain = described(settings_for(model, prompts, results_dir))
    moved = tmp_path / "elsewhere" / prompts.name
    moved.parent.mkdir()
    moved.write_bytes(prompts.read_bytes())
    (tmp_path / "link" / model.name).parent.mkdir()
    (tmp_path / "link" / model.name).symlink_to(model)
    there = settings_for(tmp_path / "link" / model.name, moved, tmp_path / "other")
    assert described(there).run_id == plain.run_id


def test_a_run_is_described_by_its_names_settings_and_labels(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    settings = settings_for(model, prompts, results_dir, "sampling.temperature=1")
    run = described(settings)
    assert (run.method, run.task, run.model) == ("layerskip", "jsonl", model.resolve().name)
    assert run.config == settings.config
    assert run.identity["method"] == {
        "target": settings.method.target,
        **original_settings(settings.method.params),
    }
    assert dict(run.labels) == {
        "exactness": "sampling-exact",
        "prompts": "jsonl",
        "partial": False,
        "independent re-implementation": False,
        "cost only": False,
        "random weights": False,
        "draft cost": None,
        "tier": run.labels["tier"],
        "several tokens per row": False,
        "draft parameters": None,
    }


def test_labels_follow_the_traits_of_the_method(model: Path, prompts: Path, results_dir: Path) -> None:
    overrides = ["method.acceptance=[1.0,1.0]", "method/schedule=macro"]
    labels = described(settings_for(model, prompts, results_dir, *overrides, method="synthetic")).labels
    assert (labels["cost only"], labels["draft cost"], labels["several tokens per row"]) == (
        True,
        "macro",
        True,
    )
