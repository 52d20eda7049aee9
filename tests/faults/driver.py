"""Starts harmed processes and says how they ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock

from bench.compose.settings import Settings
from tests.faults.harms import Harm
from tests.faults.worker import run_command, run_settings
from tests.forks import FORKS
from tests.harness import settings_for

PATIENCE_S = 300
_NUMBERS = count()
_REAPING = Lock()
"""A status is read once, from a pipe, and starting a process reads those of all that have ended: of two
threads that do so at once, one is left with 255."""
OPTIONS = ["max_new_tokens=5", "method.exit_layer=1", "measure.warmup.max_rounds=1"]


@dataclass(frozen=True)
class End:
    """How a process ended: its exit status, or minus the signal's number, and what it printed."""

    status: int | None
    said: str

    @property
    def mistake(self) -> list[str]:
        """The two lines of a user's mistake, without the log lines before them."""
        return [line for line in self.said.splitlines() if line.startswith(("error: ", "fix: "))]


@dataclass(frozen=True)
class Start:
    """A process under way."""

    process: BaseProcess
    said: Path

    def is_over(self, patience_s: float = 0.0) -> bool:
        """Whether it has ended, or ends within so many seconds."""
        return bool(wait([self.process.sentinel], patience_s))

    def end(self, patience_s: float = PATIENCE_S) -> End:
        """Wait for it; who takes too long is killed, which its status shows."""
        if not self.is_over(patience_s):
            self.process.kill()
            self.is_over(PATIENCE_S)
        with _REAPING:
            self.process.join(PATIENCE_S)
        return End(self.process.exitcode, self.said.read_text() if self.said.exists() else "")


@dataclass(frozen=True)
class Workload:
    """One run to be harmed: layerskip against the baseline, three turns, two repeats, 12 samples."""

    model: Path
    prompts: Path
    seed: int = 0

    def settings(self, results: Path) -> Settings:
        """For starts without Hydra, which cost half as much."""
        return replace(_composed(self), results_dir=results)

    def command(self, results: Path) -> list[str]:
        """The arguments of ``python -m bench``."""
        model = ["model=local", f"model.path={self.model}", "method=layerskip"]
        task = ["task=jsonl", f"task.path={self.prompts}", f"seed={self.seed}", f"results_dir={results}"]
        return [*model, *task, *OPTIONS]

    def begin(self, results: Path, harm: Harm | None = None) -> Start:
        """Start the command in a process of its own."""
        return _begin(run_command, self.command(results), harm, self.model)

    def run(self, results: Path, harm: Harm | None = None) -> End:
        """Start the command and wait for its end."""
        return self.begin(results, harm).end()

    def complete(self, results: Path) -> None:
        """Start the run once more, unharmed, and see it through."""
        end = begin_settings(self.settings(results), None).end()
        assert end.status == 0, end.said


@cache
def _composed(workload: Workload) -> Settings:
    """Composing costs a third of a run."""
    nowhere = workload.model.with_name("results")
    return settings_for(workload.model, workload.prompts, nowhere, f"seed={workload.seed}", *OPTIONS)


def begin_settings(settings: Settings, harm: Harm | None) -> Start:
    """Start a run without Hydra."""
    return _begin(run_settings, settings, harm, Path(settings.model.path))


def _begin(target: object, what: Settings | Sequence[str], harm: Harm | None, model: Path) -> Start:
    said = model.with_name(f"said-{next(_NUMBERS)}")  # not among the results, whose disk may be full
    process = FORKS.Process(target=target, args=(what, harm, said))  # type: ignore[arg-type]
    with _REAPING:
        process.start()
    return Start(process, said)


def only_run(results: Path) -> Path:
    """The folder of the one run in a results folder."""
    (folder,) = (results / "runs").iterdir()
    return folder


def attempts(folder: Path) -> int:
    """How often a run was started."""
    return len(json.loads((folder / "run.json").read_text())["attempts"])
