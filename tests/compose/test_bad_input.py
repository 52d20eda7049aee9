"""What a user gets wrong: two lines naming the value and the fix, exit status 2, no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.cli import main
from bench.runtime.modules import save_module
from methods.kangaroo.module import Adapter
from tests.harness import save_prompts, save_random_model


def typed(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> list[str]:
    """Run ``python -m bench`` in this process; the two lines it must leave on stderr."""
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    lines = capfd.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith(("error: ", "fix: "))]
    assert len(errors) == 2
    assert "Traceback" not in "".join(lines)
    return errors


Case = Callable[[Path, Path], list[str]]


def unknown_method(model: Path, folder: Path) -> list[str]:
    return ["method=kangroo"]


def misspelt_parameter(model: Path, folder: Path) -> list[str]:
    return ["method=layerskip", "method.exit_layr=2"]


def missing_weights(model: Path, folder: Path) -> list[str]:
    return ["method=kangaroo", f"method.weights={folder}"]


def adapter_of_another_shape(model: Path, folder: Path) -> list[str]:
    torch.manual_seed(0)
    facts = {"method": "kangaroo", "exit_layer": 2}
    save_module(folder / "adapter", Adapter(64, 4, 2, 16, 1e-5).state_dict(), facts)
    return ["method=kangaroo", f"method.weights={folder / 'adapter'}"]


def unsupported_architecture(model: Path, folder: Path) -> list[str]:
    other = save_random_model(folder / "neox")
    config = json.loads((other / "config.json").read_text())
    config |= {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"}
    (other / "config.json").write_text(json.dumps(config))
    return ["method=autoregressive", f"model.path={other}"]


def pickled_weights(model: Path, folder: Path) -> list[str]:
    other = save_random_model(folder / "pickled")
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    return ["method=autoregressive", f"model.path={other}"]


def empty_task_file(model: Path, folder: Path) -> list[str]:
    (folder / "empty.jsonl").write_text("")
    return ["method=autoregressive", f"task.path={folder / 'empty.jsonl'}"]


def malformed_line(model: Path, folder: Path) -> list[str]:
    (folder / "torn.jsonl").write_text('{"prompt": "fine"}\n{"prompt": "torn\n')
    return ["method=autoregressive", f"task.path={folder / 'torn.jsonl'}"]


def empty_prompt(model: Path, folder: Path) -> list[str]:
    return ["method=autoregressive", f"task.path={save_prompts(folder / 'blank.jsonl', ['fine'], ['  '])}"]


def exit_beyond_the_model(model: Path, folder: Path) -> list[str]:
    return ["method=layerskip", "method.exit_layer=4"]


@pytest.mark.parametrize(
    ("case", "what", "fix"),
    [
        (unknown_method, "unknown method 'kangroo'", "kangaroo"),
        (misspelt_parameter, "method.exit_layr", "method.exit_layer"),
        (missing_weights, "holds no module.safetensors", "bench.train method=kangaroo"),
        (adapter_of_another_shape, "this model needs (32,)", "trained for this model"),
        (unsupported_architecture, "GPTNeoXForCausalLM", "LlamaForCausalLM"),
        (pickled_weights, "pickled .bin weights", "python -m bench.convert kind=checkpoint"),
        (empty_task_file, "empty.jsonl", ""),
        (malformed_line, "torn.jsonl:2", "JSON"),
        (empty_prompt, "blank.jsonl:2", ""),
        (exit_beyond_the_model, "must lie in 1..3", "method.exit_layer"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_mistake_is_told_in_two_lines(
    case: Case,
    what: str,
    fix: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    prompts = save_prompts(tmp_path / "prompts.jsonl", ["Tell me a story."])
    given = case(model, tmp_path)
    common = ["model=local", "task=jsonl", f"results_dir={tmp_path}", f"hydra.run.dir={tmp_path}"]
    if not any(override.startswith("model.path") for override in given):
        common.append(f"model.path={model}")
    if not any(override.startswith("task.path") for override in given):
        common.append(f"task.path={prompts}")
    error, hint = typed([*common, *given], monkeypatch, capfd)
    assert what in error
    assert fix in hint


def test_a_wrong_model_is_named_before_questions_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["model=local", "model.path=./nowhere", "model.prompts=official", "task=mt_bench"]
    error, _ = typed([*given, f"hydra.run.dir={tmp_path}"], monkeypatch, capfd)
    assert "model.path=./nowhere: there is no such folder" in error
