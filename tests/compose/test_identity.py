"""Run ids: two runs that differ in anything that changes ids or times have different ids, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from bench.compose.schema import run_id
from bench.compose.settings import Settings
from bench.compose.workbench import prepare_run
from bench.records.model import Run, original_settings
from tests.harness import save_prompts, settings_for

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
    ],
)
def test_a_setting_that_changes_ids_or_times_makes_another_run(
    override: str, model: Path, prompts: Path, results_dir: Path
) -> None:
    plain = described(settings_for(model, prompts, results_dir))
    assert described(settings_for(model, prompts, results_dir, override)).run_id != plain.run_id


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
