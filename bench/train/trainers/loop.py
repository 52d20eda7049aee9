"""The training loop: optimiser steps, the log of their figures, checkpoints, and exact resumption.

Subclasses compute a step: `bench.train.trainers.modules` trains modules on a frozen model,
`bench.train.trainers.joint` a copy of the whole model.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from bench.records.files import acquire, release
from bench.show.waiting import Wait
from bench.train.trainers.checkpoint import (
    intact,
    load_start,
    load_state,
    load_trained,
    make_folder,
    save_state,
    trained_state,
)
from bench.train.trainers.course import Course
from bench.train.trainers.recipe import ModuleRecipe

Dialogue = tuple[list[int], list[bool]]
"""Token ids of a dialogue, length T, and which of them are answers."""
Item = TypeVar("Item")
"""What a step takes several of: dialogues, or what stands for them."""
NO_FACTS: Mapping[str, Any] = MappingProxyType({})
log = logging.getLogger(__name__)


class TrainingLoop(ABC, Generic[Item]):
    """One training run.

    Args:
        name: Key of the trained weights in a checkpoint.
        recipe: Settings.
        out: Folder of the run; checkpoints go to ``out/work``.
        start: Files of weights; training starts from their mean, or from the weights of `_new` if there are
            none.
        facts: What else the result depends on, such as the data; a run is only resumed with the same facts.
    """

    def __init__(
        self, name: str, recipe: ModuleRecipe, out: Path, start: Sequence[Path], facts: Mapping[str, Any]
    ) -> None:
        self._name, self._recipe, self._work = name, recipe, out / "work"
        self._settings = {**asdict(recipe), **facts}
        self._course = Course(out, recipe.steps, recipe.log_every)
        torch.manual_seed(recipe.seed)  # new modules initialise themselves from the global generator
        self._trained = self._new()
        if start:
            load_start(self._trained, start)
        self._optimizer = self._new_optimizer()
        self._step = 0

    @abstractmethod
    def _new(self) -> nn.Module:
        """The module or model to train, on its device."""

    @abstractmethod
    def _new_optimizer(self) -> torch.optim.Optimizer:
        """An optimiser of its weights, with one parameter group per peak rate."""

    @abstractmethod
    def train_step(self, items: Sequence[Item]) -> dict[str, float]:
        """Make one update; returns its mean figures and, as `course.TOKENS`, the number of answer tokens."""

    def run(self, items: Iterator[Item]) -> dict[str, float]:
        """Train to the end; returns the mean figures of the last logged steps.

        Raises:
            UserError: If the folder holds a run with other settings or a damaged one, or another process
                trains there.
        """
        make_folder(self._work)
        lock = acquire(self._work)
        try:
            return self._train(items)
        finally:
            release(lock)

    def _train(self, items: Iterator[Item]) -> dict[str, float]:
        self._resume()
        recipe, course = self._recipe, self._course
        stream = islice(items, self._step * recipe.batch, None)
        with Wait("training", recipe.steps, done=self._step) as wait:
            for _ in range(self._step, recipe.steps):
                rate = recipe.lr * recipe.lr_factor(self._step)
                figures = self.train_step(list(islice(stream, recipe.batch)))
                if shown := course.passed(self._step, rate, figures):
                    wait.tell(", ".join(f"{name} {value:.4g}" for name, value in shown.items()))
                if self._step % recipe.checkpoint_every == 0:
                    self._save()
                wait.add()
        return course.figures

    def _update(self, *peak_rates: float) -> None:
        """Clip the gradients and step the optimiser at this step's share of each group's peak rate."""
        recipe = self._recipe
        nn.utils.clip_grad_norm_(self._trained.parameters(), recipe.clip)
        for group, rate in zip(self._optimizer.param_groups, peak_rates, strict=True):
            group["lr"] = rate * recipe.lr_factor(self._step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1

    def _save(self) -> None:
        state = {"step": self._step, "settings": self._settings, "course": self._course.state}
        state |= {self._name: trained_state(self._trained), "optimizer": self._optimizer.state_dict()}
        save_state(self._work, state)

    def _resume(self) -> None:
        state = load_state(self._work, self._settings)
        course = None
        if state is not None:
            with intact(self._work):
                load_trained(self._trained, state[self._name])
                self._optimizer.load_state_dict(state["optimizer"])
                self._step = int(state["step"])
                course = {key: state["course"][key] for key in ("seconds", "sums", "count")}
            log.info("resumed at step %d of %d", self._step, self._recipe.steps)
        self._course.begin(self._step, course)
