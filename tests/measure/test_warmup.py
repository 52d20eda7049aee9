"""Warming up leaves no trace in methods that learn from prompts."""

from __future__ import annotations

from pathlib import Path

from bench.compose.schema import WarmupConfig
from bench.compose.workbench import build_workbench
from bench.measure.warmup import warm_up
from bench.records.model import Arm
from tests.harness import save_prompts, save_random_model, settings_for


class Learning:
    """Wraps a method and counts what it has decoded since it last forgot."""

    def __init__(self, method: object) -> None:
        self._method = method
        self.decoded = self.forgotten = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._method, name)

    def generate(self, *arguments: object) -> object:
        self.decoded += 1
        return self._method.generate(*arguments)  # type: ignore[attr-defined]

    def reset(self) -> None:
        self.forgotten += self.decoded
        self.decoded = 0


def test_a_method_that_learns_forgets_the_warm_up(tmp_path: Path, results_dir: Path) -> None:
    model = save_random_model(tmp_path / "model")
    prompts = save_prompts(tmp_path / "prompts.jsonl", ["Tell me a story."], ["What is the capital?"])
    bench = build_workbench(settings_for(model, prompts, results_dir))
    method = Learning(bench.arms[Arm.METHOD])
    object.__setattr__(bench, "arms", {**bench.arms, Arm.METHOD: method})
    warm_up(bench, bench.task.prompts, WarmupConfig(max_rounds=2, tolerance=0.0), 4)
    assert (method.decoded, method.forgotten) == (0, 2 + 1)  # the first prompt twice, the second once
