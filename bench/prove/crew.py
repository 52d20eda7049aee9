"""The checks of one command, spread over processes: each of them makes its models once for all its checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from types import TracebackType
from typing import Any

from bench.compose.components import Component
from bench.compose.workbench import SMALL_MODEL
from bench.measure.isolate import end_with_parent
from bench.measure.processor import cores
from bench.prove.certificates import Certificate, Check
from bench.prove.config import ProveConfig
from bench.prove.control_run import Outcome, catch
from bench.prove.controls import TRIED
from bench.prove.models import Models
from bench.prove.prover import Prover, Step

Report = Callable[[str, Check | None], None]
"""Called as each check ends: what was checked, and the check; None for a control that passed all of them."""


class Crew:
    """Makes every check of a command; a context manager, since processes may be at work.

    Args:
        config: Sizes of the proof and how many processes; None is one per core where that is sensible.
        models: This process's own.
    """

    def __init__(self, config: ProveConfig, models: Models) -> None:
        self._worker = Worker(config, models)
        self._pool: ProcessPoolExecutor | None = None
        jobs = config.jobs or sensible_jobs(models)
        if jobs > 1:  # not forked: a fork in a process with running threads may never return
            self._pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (config,))

    @property
    def prover(self) -> Prover:
        """This process's own."""
        return self._worker.prover

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=error is not None)

    @property
    def number_of_controls(self) -> int:
        """How often `controls` reports."""
        return len(TRIED)

    def number_of_checks(self, components: Sequence[Component]) -> int:
        """How often `certificates` reports on these methods.

        Raises:
            UserError: As `bench.prove.prover.Prover.declared`.
        """
        prover = self.prover
        return sum(len(prover.steps(prover.declared(component))) for component in components)

    def controls(self, report: Report) -> tuple[Outcome, ...]:
        """What became of every control; see `bench.prove.control_run`.

        Args:
            report: See `Report`.
        """
        caught = self._results([("catch", index) for index in range(len(TRIED))])
        outcomes = []
        for control, check in zip(TRIED, caught, strict=True):
            report(f"control: {control.name}", check)
            outcomes.append(Outcome(control, check))
        return tuple(outcomes)

    def certificates(
        self, components: Sequence[Component], controls: Mapping[str, str | None], report: Report
    ) -> Iterator[Certificate]:
        """One certificate per method, in their order, each as soon as it is made.

        Args:
            components: The methods.
            controls: By broken variant, which check caught it; goes into every certificate.
            report: See `Report`.

        Raises:
            UserError: As `bench.prove.prover.Prover.declared`.
        """
        prover = self.prover
        promises = [prover.declared(component) for component in components]
        started = [self._start(*pair) for pair in zip(components, promises, strict=True)]
        for component, declared, results in zip(components, promises, started, strict=True):
            checks = []
            for check in results:
                if isinstance(check, Check):
                    checks.append(check)
                    report(f"{component.name}: {check.kind}, {check.subject}", check)
                else:
                    hashes = check
            certificate = prover.certificate(component, declared, checks, hashes)
            yield replace(certificate, controls=dict(controls))

    def transcripts(self, components: Sequence[Component]) -> Iterator[dict[str, str]]:
        """What each method decodes the battery into, in their order; see `bench.prove.battery`."""
        return self._results([("transcript", component) for component in components])

    def _start(self, component: Component, declared: dict[str, str]) -> Iterator[Any]:
        """Begin all work on a method: its checks in order, then its transcript."""
        steps = self.prover.steps(declared)
        return self._results(
            [*(("check", component, step, declared) for step in steps), ("transcript", component)]
        )

    def _results(self, tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Results of calls of `Worker`, each its name and arguments, in order; all are begun at once."""
        if self._pool is None:
            return (getattr(self._worker, name)(*arguments) for name, *arguments in tasks)
        waiting = [self._pool.submit(_call, *task) for task in tasks]
        return (future.result() for future in waiting)


def sensible_jobs(models: Models) -> int:
    """Processes that help: one per core for a small model on the CPU, which runs on one thread; else 1."""
    decoder = models.configured("fp32").decoder
    if decoder.device.type != "cpu" or decoder.parameters >= SMALL_MODEL:
        return 1
    return cores()


class Worker:
    """What a process keeps between its checks.

    Args:
        config: Sizes of the proof.
        models: Of this process; made here if None.
    """

    def __init__(self, config: ProveConfig, models: Models | None = None) -> None:
        self._alpha = config.alpha
        self._models = models or Models(config)
        self._models.configured("fp32")  # settles the threads, also for checks on other models
        self.prover = Prover(config, self._models)

    def catch(self, index: int) -> Check | None:
        """The check that a control fails, by its place in `TRIED`."""
        return catch(TRIED[index], self._models, self._alpha)

    def check(self, component: Component, step: Step, declared: dict[str, str]) -> Check:
        """See `Prover.check`."""
        return self.prover.check(component, step, declared)

    def transcript(self, component: Component) -> dict[str, str]:
        """See `Prover.transcript`."""
        return self.prover.transcript(component)


_workers: list[Worker] = []


def _begin(config: ProveConfig) -> None:
    end_with_parent()
    _workers.append(Worker(config))


def _call(name: str, *arguments: Any) -> Any:  # noqa: ANN401
    return getattr(_workers[0], name)(*arguments)
