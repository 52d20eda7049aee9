"""``python -m bench.train``: the mistakes it explains and the smallest run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from unittest.mock import patch

import pytest

from bench.errors import UserError
from bench.train.cli import main
from bench.train.subject import checked
from bench.train.trainers.checkpoint import make_folder
from bench.train.trainers.recipe import JointRecipe, ModuleRecipe
from tests.command import Done, mistake_lines, run_command
from tests.harness import save_random_model


def train(*overrides: str) -> Done:
    """The command, without the estimate of memory that `test_memory` is about."""
    with patch("bench.train.cli.require_memory_for"):
        return run_command(main, *overrides)


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["method=kangroo"], "unknown method 'kangroo'"),
        (["method=layerskip"], "method=layerskip has nothing to train"),
        (["recipe.stepz=3"], "recipe.stepz"),
        (["method=kangaroo", "recipe.steps=abc"], "recipe.steps must be a whole number, got 'abc'"),
        (["method=kangaroo", "start=7"], "7 holds no module.safetensors to start from"),
        (["method=kangaroo", "start=[7,b]"], "7 holds no module.safetensors to start from"),
        (["plan=true", "gpu=abacus"], "gpu must be one of v100"),
        (["plan=true", "base=tiny"], "plan=true is for a method's modules"),
    ],
    ids=[
        "unknown method",
        "nothing to train",
        "misspelt recipe key",
        "no number",
        "no start",
        "no starts",
        "unknown GPU",
        "plan of a base",
    ],
)
def test_mistakes_take_two_lines(overrides: list[str], what: str, tmp_path: Path) -> None:
    got = train(*overrides, f"out={tmp_path}", f"hydra.run.dir={tmp_path}")
    assert got.returncode == 2
    assert what in got.stderr
    assert len(mistake_lines(got.stderr)) == 2


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("steps", ["abc", 1.5, True, 0, math.nan, 10**24]),
        ("batch", [1.5, True, [2]]),
        ("seed", ["abc", -1]),
        ("lr", ["abc", math.inf, math.nan, 0, -1, True]),
        ("clip", [math.inf, math.nan, 0, -1]),
        ("weight_decay", [math.nan, -1]),
        ("warmup_steps", [-1, None]),
    ],
)
def test_a_recipe_of_impossible_values_is_refused(key: str, values: list[object]) -> None:
    for value in values:
        for defaults in (ModuleRecipe(), JointRecipe()):
            with pytest.raises(UserError, match=rf"recipe.{key} must be"):
                checked({key: value}, defaults, "recipe")


@pytest.mark.parametrize("name", ["/proc/x", "/etc/passwd", "dangling", "n" * 300])
def test_a_folder_that_cannot_be_made_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "x")
    with pytest.raises(UserError, match="cannot be made"):
        make_folder(tmp_path / name)


def test_an_adapter_for_an_own_model_is_trained_by_one_command(tmp_path: Path) -> None:
    model = save_random_model(tmp_path / "model", context=1024)
    got = train(
        "model=local",
        f"model.path={model}",
        "recipe.steps=2",
        "recipe.batch=1",
        f"out={tmp_path / 'adapter'}",
        f"hydra.run.dir={tmp_path}",
    )
    assert got.returncode == 0, got.stderr
    out = tmp_path / "adapter"
    command = f"python -m bench method=kangaroo model=local model.path={model} method.weights={out}"
    assert got.stdout.strip().splitlines()[-1].endswith(f"measure it: {command}")
    assert got.stderr.startswith("loading torch, then the model; the data and the training come next\n")
    assert json.loads((out / "module.json").read_text())["method"] == "kangaroo"
    assert [json.loads(line)["step"] for line in (out / "training.jsonl").read_text().splitlines()] == [2]
    assert {"training.png", "training.svg"} < {path.name for path in out.iterdir()}


def test_by_default_a_model_of_ones_own_gets_its_modules_where_a_run_looks_for_them(tmp_path: Path) -> None:
    model = save_random_model(tmp_path / "model", context=1024)
    brief = ("recipe.steps=1", "recipe.batch=1", f"hydra.run.dir={tmp_path}")
    got = train("model=local", f"model.path={model}", *brief)
    assert got.returncode == 0, got.stderr
    assert (model / "modules" / "kangaroo" / "module.safetensors").is_file()


def test_a_cache_is_filled_once_and_serves_the_next_training(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Hi {name}"},
                {"role": "assistant", "content": "Good day."},
            ]
        }
        for name in ("Ada", "Ben", "Cleo")
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    setup = (
        "data=answers",
        f"data.path={answers}",
        f"cache={tmp_path / 'cache'}",
        f"hydra.run.dir={tmp_path}",
    )
    brief = ("recipe.steps=2", "recipe.batch=2", "recipe.log_every=1", "method.draft_vocab=200")
    first = train("method=kangaroo", *setup, *brief, f"out={tmp_path / 'a'}")
    assert first.returncode == 0, first.stderr
    assert "3 dialogues" in first.stdout
    again = train("method=kangaroo", *setup, *brief, "recipe.seed=1", f"out={tmp_path / 'b'}")
    assert again.returncode == 0, again.stderr
    assert "run through the model" not in again.stdout
    assert len((tmp_path / "b" / "training.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["method=kangaroo"], "these dialogues never end"),
        (["method=hamburger", "recipe=joint"], "method=hamburger trains the whole model"),
    ],
)
def test_where_a_cache_does_not_help(overrides: list[str], what: str, tmp_path: Path) -> None:
    got = train(*overrides, f"cache={tmp_path}", f"out={tmp_path}", f"hydra.run.dir={tmp_path}")
    assert got.returncode == 2
    assert what in got.stderr


def test_a_plan_tells_the_memory_of_a_model_that_is_not_here(tmp_path: Path) -> None:
    got = train(
        "model=vicuna_7b",
        "data=sharegpt",
        "plan=true",
        "gpu=a100_40gb",
        f"out={tmp_path / 'out'}",
        f"hydra.run.dir={tmp_path}",
    )
    assert got.returncode == 0, got.stderr
    assert "frozen model 13.5 GB" in got.stdout
    assert "A100-40GB: has 40.0 GB" in got.stdout
    assert not (tmp_path / "out").exists()
