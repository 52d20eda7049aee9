"""What a proof decodes: the configured model as a benchmark of it would decode it."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.compose.schema import ModelConfig
from bench.prove.targets import Target, model_target
from bench.runtime.loading import RuntimeOptions
from tests.harness import save_random_model

OPTIONS = RuntimeOptions(torch.device("cpu"), torch.float32, 2048)


def target(folder: Path, *stop_ids: int) -> Target:
    model = ModelConfig(path=str(folder), stop_ids=list(stop_ids))
    return model_target("random", model, OPTIONS, count=2, new=12)


def test_answers_end_at_the_tokens_that_the_configuration_names(tmp_path: Path) -> None:
    folder = save_random_model(tmp_path, context=2048)
    plain = target(folder)
    stop = plain.answers[0][3]
    stopped = target(folder, stop)
    assert stopped.budget.eos_ids == plain.budget.eos_ids | {stop}
    answer = plain.answers[0]
    assert stopped.answers[0] == answer[: answer.index(stop) + 1]
