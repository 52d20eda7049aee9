"""Every configured method by the real runner: an interrupted run is resumed, and the report has its row."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import pytest
from transformers import OlmoeConfig

from bench.compose.settings import Settings
from bench.measure import finished, runner
from bench.prove.source import source_hash
from bench.records.model import Arm
from bench.records.store import load_samples
from bench.report.build import build
from bench.runtime.decoder import Decoder
from bench.runtime.loading import load_decoder
from tests.harness import save_prompts, save_random_model, undrawn
from tests.methods import checks
from tests.methods.options import DEPTHS, first_fit, options, settings_of
from tests.runtime.models import options as runtime_options

OPTIONS = options()


@dataclass
class Runs:
    """One run of each method, interrupted and resumed, all in one results folder.

    Args:
        folder: For models, prompts, modules and results.
    """

    folder: Path
    _resumed: dict[str, checks.Resumed] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def resumed(self, option: str) -> checks.Resumed:
        """The run of that method, which is measured when first asked for."""
        if option not in self._resumed:
            self._resumed[option] = checks.interrupt_and_resume(self.settings(option))
        return self._resumed[option]

    def settings(self, option: str, *overrides: str) -> Settings:
        """Settings of a small run with random modules, on the shallowest model that the method accepts."""
        prompts = self.folder / "prompts.jsonl"
        save_prompts(prompts, ["Tell me a story."], ["What is the capital?"])
        tiny = [*overrides, "task=jsonl", f"task.path={prompts}", "max_new_tokens=6", "measure=quick"]
        tiny += [f"results_dir={self.results}", "model.prompts=official", "measure.warmup.max_rounds=1"]
        settings = settings_of(option, *tiny)
        models = [*(self.model(depth) for depth in DEPTHS), self.sparse_model()]
        loads = [(json.loads((path / "config.json").read_text()), partial(loaded, path)) for path in models]
        modules = self.folder / "modules" / option
        component, subject = first_fit(settings.method, modules, loads)
        has_experts = subject.decoder.config.moe is not None
        path = models[-1 if has_experts else DEPTHS.index(subject.decoder.depth)]
        return replace(
            settings,
            methods={Arm.METHOD.value: component},
            model=replace(settings.model, path=str(path), modules=None),
        )

    def model(self, depth: int) -> Path:
        """A checkpoint of a small random model."""
        path = self.folder / f"model-{depth}"
        return path if path.is_dir() else save_random_model(path, depth)

    def sparse_model(self) -> Path:
        """A checkpoint of a small random model with mixtures of experts."""
        path = self.folder / "model-sparse"
        return path if path.is_dir() else save_random_model(path, DEPTHS[0], kind=OlmoeConfig)


@cache
def loaded(path: Path) -> Decoder:
    """A model that methods are tried on, one after the other."""
    return load_decoder(path, runtime_options())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Of all methods; the code that each decodes with is hashed once, not at every start and resumption."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (runner, finished):
            patch.setattr(module, "source_hash", cache(source_hash))
        yield Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("option", OPTIONS)
def test_an_interrupted_run_is_resumed_and_judged(option: str, runs: Runs) -> None:
    checks.check_resumed(runs.resumed(option))


@pytest.mark.parametrize("option", OPTIONS)
def test_a_runs_rounds_take_about_its_decode_time(option: str, runs: Runs) -> None:
    """The time of every round is stored; only what follows the last verification belongs to no round."""
    shares: dict[str, list[float]] = {}
    for sample in load_samples(runs.resumed(option).folder):
        assert sample.timing is not None
        assert len(sample.timing.rounds_s) == len(sample.rounds)
        share = sum(sample.timing.rounds_s) / sample.timing.decode_s
        shares.setdefault(sample.label, []).append(share)
    assert all(
        max(of_arm) > 0.7 for of_arm in shares.values()
    )  # one answer may meet other work on the machine
    assert max(map(max, shares.values())) < 1.001


@pytest.fixture(scope="module")
def rows(runs: Runs) -> list[dict[str, str]]:
    """The report of all runs as a table; a run that fails has its own test above."""
    for option in OPTIONS:
        with contextlib.suppress(Exception):
            runs.resumed(option)
    return report_rows(runs.results)


def report_rows(results: Path) -> list[dict[str, str]]:
    """The report of a results folder as a table."""
    with undrawn():
        board = build(results)
    return list(csv.DictReader(io.StringIO(board.texts["leaderboard.csv"])))


@pytest.mark.parametrize("option", OPTIONS)
def test_a_run_has_its_row_in_the_report(option: str, runs: Runs, rows: list[dict[str, str]]) -> None:
    checks.check_row(runs.resumed(option), rows)
