"""A missing model or module is named where it was looked for, with the command that makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli import main
from bench.compose.places import default_out, require_places, training_command
from bench.compose.schema import ModelConfig
from bench.errors import UserError
from tests.command import run_command
from tests.harness import composed_settings, save_prompts, save_random_model


def refusal(*overrides: str) -> UserError:
    with pytest.raises(UserError) as caught:
        require_places(composed_settings(*overrides))
    return caught.value


@pytest.mark.parametrize("task", ["mt_bench", "gsm8k"])
def test_a_missing_model_is_named_and_not_the_questions(task: str) -> None:
    refused = refusal("model=local", "model.path=/nope", f"task={task}")
    assert refused.what == "model.path=/nope: there is no such folder or GGUF file"
    assert refused.fix.startswith("set model.path to an existing folder")


def test_a_plan_refuses_a_missing_model_too() -> None:
    assert "model.path=./nope" in refusal("model=local", "model.path=./nope", "bench.plan=true").what
    require_places(composed_settings("model=local", "model.path=some/where", "bench.plan=true"))


def test_a_missing_folder_of_weights_is_named_with_the_exact_command() -> None:
    refused = refusal("model=tiny", "method.weights=/nope")
    assert refused.what == (
        "method.weights=/nope: there is no such folder, so method=kangaroo has no modules for model=tiny"
    )
    assert "train them: python -m bench.train method=kangaroo model=tiny out=/nope;" in refused.fix


def test_a_folder_without_modules_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path}: holds no module.safetensors" in refusal(f"method.weights={tmp_path}").what


@pytest.mark.parametrize(
    ("overrides", "command"),
    [
        (["method=kangaroo"], "python -m bench.train method=kangaroo model=vicuna_7b;"),
        (["method=kangaroo_tree"], "python -m bench.train method=kangaroo model=vicuna_7b;"),
        (["method=hamburger"], "python -m bench.train method=hamburger model=vicuna_7b recipe=joint;"),
        (
            ["method=draft_verify"],
            "python -m bench.train.skip_set method=draft_verify model=vicuna_7b prompts=FILE;",
        ),
    ],
)
def test_modules_that_are_not_trained_yet_are_looked_for_where_training_puts_them(
    overrides: list[str], command: str
) -> None:
    refused = refusal("model=vicuna_7b", *overrides)
    assert "method.weights=results/train/vicuna_7b/" in refused.what
    assert command in refused.fix


def test_a_run_finds_what_training_wrote_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = ModelConfig(path="lmsys/vicuna-7b-v1.3", name="vicuna_7b")
    out = default_out("kangaroo", "vicuna_7b", model)
    out.mkdir(parents=True)
    (out / "module.safetensors").touch()
    require_places(composed_settings("model=vicuna_7b"))
    own = save_random_model(tmp_path / "mine")
    local = composed_settings("model=local", f"model.path={own}", "bench.plan=true")
    looked = local.method.params["weights"]
    assert str(default_out("kangaroo", "local", local.model)) == looked == f"{own}/modules/kangaroo"
    assert training_command("kangaroo", local.model, looked).endswith(f"model=local model.path={own}")


def test_shipped_modules_are_not_replaced_by_a_training() -> None:
    model = composed_settings("model=tiny").model
    assert default_out("kangaroo", "tiny", model) == Path("results/train/tiny/kangaroo")
    assert training_command("kangaroo", model).endswith("method=kangaroo model=tiny")


def test_a_yaml_of_ones_own_is_named_by_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    file = tmp_path / "conf" / "method" / "last_seen.yaml"
    file.write_text("_target_: nowhere.LastSeen\n")
    prompts = save_prompts(tmp_path / "p.jsonl", ["a fox"])
    done = run_command(
        main,
        "--config-dir",
        str(tmp_path / "conf"),
        "method=last_seen",
        "model=tiny",
        "task=jsonl",
        f"task.path={prompts}",
        f"results_dir={tmp_path}",
    )
    assert done.returncode == 2
    assert "cannot import nowhere.LastSeen" in done.stderr
    assert f"correct _target_ in {file}, or install its package" in done.stderr
    file.write_text("weights: 3\n")
    done = run_command(main, "--config-dir", str(tmp_path / "conf"), "method=last_seen", "model=tiny")
    assert f"to {file}" in done.stderr


def test_commands_in_messages_can_be_typed() -> None:
    command = training_command("kangaroo", ModelConfig(path="./my model"))
    assert command == "python -m bench.train method=kangaroo model=local 'model.path=./my model'"
