"""The checks of one command, spread over processes: each of them makes its models once for all its checks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from types import TracebackType

from bench.compose.components import Component
from bench.compose.workbench import SMALL_MODEL
from bench.measure.environment import usable_cores
from bench.prove.certificates import Certificate, Check
from bench.prove.config import ProveConfig
from bench.prove.control_run import Outcome, catch, run_controls
from bench.prove.controls import TRIED
from bench.prove.models import Models
from bench.prove.prover import Prover


class Crew:
    """Makes every check of a command; a context manager, since processes may be at work.

    Args:
        config: Sizes of the proof and how many processes; None is one per core where that is sensible.
        models: This process's own.
        alpha: Level of a single sampling test.
    """

    def __init__(self, config: ProveConfig, models: Models, alpha: float) -> None:
        self._config, self._models, self._alpha = config, models, alpha
        self._pool: ProcessPoolExecutor | None = None
        jobs = config.jobs or sensible_jobs(models)
        if jobs > 1:  # not forked: a fork in a process with running threads may never return
            self._pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (config, alpha))

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=error is not None)

    def controls(self) -> tuple[Outcome, ...]:
        """What became of every control; see `bench.prove.control_run`."""
        if self._pool is None:
            return run_controls(self._models, self._alpha)
        found = [self._pool.submit(_catch, index) for index in range(len(TRIED))]
        return tuple(Outcome(one, check.result()) for one, check in zip(TRIED, found, strict=True))

    def certificates(
        self, components: Sequence[Component], controls: Mapping[str, str | None]
    ) -> Iterator[Certificate]:
        """One certificate per method, in their order, each as soon as it is made.

        Args:
            components: The methods.
            controls: By broken variant, which check caught it; goes into every certificate.

        Raises:
            UserError: As `bench.prove.prover.Prover.certify`.
        """
        if self._pool is None:
            prover = Prover(self._config, self._models, self._alpha)
            made = (prover.certify(one) for one in components)
        else:
            waiting: list[Future[Certificate]] = [self._pool.submit(_certify, one) for one in components]
            made = (one.result() for one in waiting)
        return (replace(one, controls=dict(controls)) for one in made)


def sensible_jobs(models: Models) -> int:
    """Processes that help: one per core for a small model on the CPU, which runs on one thread; else 1."""
    decoder = models.configured("fp32").decoder
    if decoder.device.type != "cpu" or decoder.parameters >= SMALL_MODEL:
        return 1
    return usable_cores() or os.cpu_count() or 1


class _Worker:
    """What a process of the crew keeps between its checks."""

    def __init__(self, config: ProveConfig, alpha: float) -> None:
        self.models, self.alpha = Models(config), alpha
        self.models.configured("fp32")  # settles the threads, also for checks on other models
        self.prover = Prover(config, self.models, alpha)


_workers: list[_Worker] = []


def _begin(config: ProveConfig, alpha: float) -> None:
    _workers.append(_Worker(config, alpha))


def _catch(index: int) -> Check | None:
    worker = _workers[0]
    return catch(TRIED[index], worker.models, worker.alpha)


def _certify(component: Component) -> Certificate:
    return _workers[0].prover.certify(component)
