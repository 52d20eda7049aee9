"""Checks spread over processes: the same certificates, in the order asked for."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing.context import BaseContext
from typing import Any

import pytest

from bench.compose.components import Component
from bench.compose.schema import ModelConfig
from bench.errors import UserError
from bench.prove.certificates import Certificate
from bench.prove.config import ProveConfig
from bench.prove.crew import Crew, sensible_jobs
from bench.prove.models import Models
from tests.forks import FORKS

TINY = "package:bench/assets/tiny"
METHODS = [
    Component("method", name, "methods.core.autoregressive.Autoregressive", {})
    for name in ("first", "second")
]


def config(jobs: int | None) -> ProveConfig:
    small = {"prompts": 1, "max_new_tokens": 8, "draws": 200, "tokens": 2}
    made = ProveConfig(model=ModelConfig(path=TINY), jobs=jobs, **small)
    made.runtime.device = "cpu"
    return made


def certificates(jobs: int) -> list[Certificate]:
    settings = config(jobs)
    with Crew(settings, Models(settings)) as crew:
        made = list(crew.certificates(METHODS, {"some mistake": "greedy"}, lambda what, check: None))
    return [replace(each, code=(replace(each.code[0], created=""),)) for each in made]


def test_another_process_makes_the_same_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_worker(jobs: int, context: BaseContext, *options: Any) -> ProcessPoolExecutor:
        assert (jobs, context.get_start_method()) == (2, "spawn")
        return ProcessPoolExecutor(1, FORKS, *options)

    monkeypatch.setattr("bench.prove.crew.ProcessPoolExecutor", one_worker)
    alone = certificates(1)
    assert certificates(2) == alone
    assert [made.method for made in alone] == ["first", "second"]
    assert [made.verdict for made in alone] == ["proved", "proved"]


def test_a_small_model_on_the_cpu_takes_every_core() -> None:
    assert sensible_jobs(Models(config(None))) >= 1


def test_no_process_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="jobs must be at least 1, got 0"):
        config(0)


def test_a_users_mistake_survives_the_way_between_processes() -> None:
    mistake = pickle.loads(pickle.dumps(UserError("this is wrong", "mend it")))
    assert (mistake.what, mistake.fix) == ("this is wrong", "mend it")
