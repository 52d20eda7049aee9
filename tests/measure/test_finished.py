"""A plan, and the result of a run that is complete, are printed without torch, transformers, model or
tokenizer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.cli import main
from bench.measure.finished import finished
from bench.measure.processor import is_same_processor
from bench.measure.runner import execute
from bench.plan.planning import plan
from bench.runtime.package_index import cached_model
from tests.command import run_command
from tests.harness import composed_settings, save_prompts, save_random_model, settings_for

SCRIPT = """
import sys
from bench.cli import main
try:
    main()
finally:
    sys.stderr.write(f"loaded {sorted({'torch', 'transformers', 'datasets'} & set(sys.modules))}")
"""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run in a process that has imported nothing yet; the end of its stderr names what it loaded."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


@pytest.fixture
def measured(tmp_path: Path) -> tuple[list[str], str]:
    """A run that is complete: its command line, and what it printed."""
    model, prompts = (
        save_random_model(tmp_path / "model"),
        save_prompts(tmp_path / "p.jsonl", ["a fox", "Why?"]),
    )
    settings = settings_for(model, prompts, tmp_path / "results")
    outcome = execute(settings)
    assert outcome.failures == 0
    arguments = [
        "method=layerskip",
        "method.exit_layer=2",
        "model=local",
        f"model.path={model}",
        "task=jsonl",
        f"task.path={prompts}",
        "max_new_tokens=8",
        f"results_dir={tmp_path / 'results'}",
        "measure.warmup.max_rounds=1",
    ]
    return arguments, f"{outcome.table}\n{outcome.run_dir}\n"


def test_a_complete_run_is_printed_again_without_torch(measured: tuple[list[str], str]) -> None:
    arguments, printed = measured
    again = command(*arguments)
    assert (again.returncode, again.stdout) == (0, printed)
    assert again.stderr.endswith("loaded []")
    planned = command(*arguments, "bench.plan=true")
    assert "8 of 8 samples  complete" in planned.stdout
    assert planned.stderr.endswith("loaded []")


@pytest.mark.parametrize("model", ["tiny", "smollm2"])
def test_a_plan_loads_no_torch(model: str, tmp_path: Path) -> None:
    if model == "smollm2" and cached_model("smollm2") is None:
        pytest.skip("smollm2 is not in the cache")
    planned = command(f"model={model}", "bench.plan=true", f"results_dir={tmp_path}")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.startswith(f"kangaroo-mt_bench-{model}-")
    assert planned.stderr == "loaded []"


def test_a_plan_of_unshipped_settings_says_that_it_loads_torch_to_check_them(
    tmp_path: Path,
) -> None:
    wrong = ["model=tiny", "method.draft_length=-1", "bench.plan=true", f"results_dir={tmp_path}"]
    planned = run_command(main, *wrong)
    assert planned.stderr.startswith("loading torch to check the method's settings\nerror: ")
    assert planned.returncode == 2


def test_where_there_may_be_a_gpu_a_plan_says_that_it_loads_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = composed_settings("model=tiny", "bench.plan=true", f"results_dir={tmp_path}")
    without = plan(settings)
    for module in ("bench.outline.run", "bench.plan.outlook"):
        monkeypatch.setattr(f"{module}.may_have_gpu", lambda: True)
    planned = plan(settings)
    assert torch.cuda.is_available() or planned == without
    said = capsys.readouterr().err
    assert "loading torch and the tokenizer to name this run" in said
    assert "loading torch and transformers for this plan: the GPU must be looked at" in said


def test_what_another_machine_or_other_code_measured_is_left_to_a_start_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = save_random_model(tmp_path / "model"), save_prompts(tmp_path / "p.jsonl", ["a fox"])
    settings = settings_for(model, prompts, tmp_path / "results")
    assert finished(settings) is None
    outcome = execute(settings)
    assert finished(settings) == outcome
    with monkeypatch.context() as patched:
        patched.setattr("bench.measure.finished.source_hash", lambda target, tier: "edited")
        assert finished(settings) is None
    with monkeypatch.context() as patched:
        patched.setattr("bench.measure.processor.cpu_model", lambda: "another")
        assert finished(settings) is None
    block = json.loads((outcome.run_dir / "run.json").read_text())["attempts"][0]
    assert is_same_processor(block)
    assert not is_same_processor({**block, "gpu": {"name": "H200"}})
    samples = outcome.run_dir / "samples.jsonl"
    samples.write_bytes(b"".join(samples.read_bytes().splitlines(keepends=True)[:-1]))
    assert finished(settings) is None
