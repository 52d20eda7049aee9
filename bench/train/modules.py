"""Training of a method's modules on a frozen model: one loop for every trainable method.

The loop runs each sequence through the decoder that benchmarks run on, hands the tapped rows to the method's
loss and steps the optimiser. It knows no method and no task. Interrupted, it continues exactly by the same
command.

Shapes: T tokens of a sequence.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.modules import WEIGHTS_FILE, save_module
from bench.train.checkpoint import load_start, load_state, save_state
from bench.train.course import TOKENS, Course
from methods.base import Trainable, TrainingRows

log = logging.getLogger(__name__)

Sequence = tuple[list[int], list[bool]]
"""Token ids of a dialogue, length T, and which of them are answers."""


@dataclass(frozen=True, slots=True)
class ModuleRecipe:
    """Settings of a run. AdamW with linear warm-up and linear decay to zero.

    Args:
        steps: Optimiser steps.
        batch: Sequences per step.
        max_tokens: Longer sequences are cut to this.
        lr: Peak learning rate.
        warmup_steps: Steps of rising rate.
        weight_decay: Of AdamW.
        clip: Largest gradient norm.
        seed: Of initialisation and data order.
        checkpoint_every: Steps between checkpoints.
        log_every: Steps between log lines.
    """

    steps: int = 400
    batch: int = 16
    max_tokens: int = 2048
    lr: float = 2e-3
    warmup_steps: int = 30
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    checkpoint_every: int = 100
    log_every: int = 20

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "max_tokens", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"recipe.{name} must be at least 1, got {getattr(self, name)}", f"raise recipe.{name}"
                )
        if self.lr <= 0:
            raise UserError(f"recipe.lr must be above 0, got {self.lr}", "the default is 0.002")

    def lr_factor(self, step: int) -> float:
        """Share of the peak rate at a step, counted from 0."""
        return min((step + 1) / max(1, self.warmup_steps), (self.steps - step) / self.steps)


class ModuleTrainer:
    """One training run.

    Args:
        method: Knows its module and its loss.
        decoder: The frozen model.
        recipe: Settings.
        out: Folder of the run: its course, and its checkpoints in ``out/work``.
        start: Folder of a trained module to begin with; None begins with a new one.
    """

    def __init__(
        self,
        method: Trainable,
        decoder: Decoder,
        recipe: ModuleRecipe,
        out: Path,
        start: Path | None = None,
    ) -> None:
        self._method, self._decoder, self._recipe, self._work = method, decoder, recipe, out / "work"
        self._course = Course(out, recipe.steps, recipe.log_every)
        torch.manual_seed(recipe.seed)  # modules initialise themselves from the global generator
        self.module: nn.Module = method.new_module(decoder).to(decoder.device)
        if start is not None:
            load_start(self.module, start / WEIGHTS_FILE)
        self._optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
        )
        self._step = 0

    def run(self, sequences: Iterator[Sequence]) -> dict[str, float]:
        """Train to the end; figures of the last logged steps.

        Raises:
            UserError: If the folder holds a run with other settings.
        """
        self._resume()
        recipe, course = self._recipe, self._course
        stream = islice(sequences, self._step * recipe.batch, None)
        bar = tqdm(
            range(self._step, recipe.steps), initial=self._step, total=recipe.steps, unit="step", disable=None
        )
        for _ in bar:
            rate, figures = self._train_step(islice(stream, recipe.batch))
            if shown := course.passed(self._step, rate, figures):
                bar.set_postfix(shown)
            if self._step % recipe.checkpoint_every == 0:
                self._save()
        return course.figures

    def _train_step(self, batch: Iterator[Sequence]) -> tuple[float, dict[str, float]]:
        """One update; its rate, and mean figures of its sequences beside the count of tokens."""
        recipe = self._recipe
        rate = recipe.lr * recipe.lr_factor(self._step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        figures = {TOKENS: 0.0}
        for ids, is_answer in batch:
            answers = is_answer[: recipe.max_tokens]
            rows = observe(self._method, self._decoder, ids[: recipe.max_tokens], answers)
            loss, extra = self._method.loss(self.module, rows, self._decoder)
            (loss / recipe.batch).backward()  # type: ignore[no-untyped-call]
            figures[TOKENS] += sum(answers[1:])
            for name, value in {"loss": float(loss.detach()), **extra}.items():
                figures[name] = figures.get(name, 0.0) + value / recipe.batch
        nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1
        return rate, figures

    def _save(self) -> None:
        state = {"step": self._step, "recipe": asdict(self._recipe), "course": self._course.state}
        state |= {"module": self.module.state_dict(), "optimizer": self._optimizer.state_dict()}
        save_state(self._work, state)

    def _resume(self) -> None:
        state = load_state(self._work, asdict(self._recipe))
        if state is not None:
            self.module.load_state_dict(state["module"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._step = state["step"]
            log.info("resumed at step %d of %d", self._step, self._recipe.steps)
        self._course.begin(self._step, state and state.get("course"))  # older checkpoints have none


@torch.no_grad()
def observe(method: Trainable, decoder: Decoder, ids: list[int], is_answer: list[bool]) -> TrainingRows:
    """One sequence through the frozen model: the rows that the method's loss reads."""
    tokens = torch.tensor(ids, device=decoder.device)
    taps = dict.fromkeys(method.taps(decoder), decoder.embedding)
    decoder.cache.truncate(0)
    decoder.run_layers(decoder.embed(tokens), decoder.placement.chain(0, len(ids)), taps=taps)
    mask = torch.tensor([*is_answer[1:], False], device=decoder.device)
    return TrainingRows(tokens, taps, mask)


def train_module(
    method: Trainable,
    decoder: Decoder,
    sequences: Iterator[Sequence],
    recipe: ModuleRecipe,
    out: Path,
    provenance: Mapping[str, Any],
    start: Path | None = None,
) -> dict[str, float]:
    """Train a method's module and write it to `out`, which holds course and checkpoints as well.

    Args:
        method: Knows its module and its loss.
        decoder: The frozen model.
        sequences: Endless stream of dialogues, the same at every start.
        recipe: Settings.
        out: Folder that `methods` load from.
        provenance: Stored beside the weights, with the recipe and the method's own settings.
        start: Folder of a trained module to begin with.

    Returns:
        Figures of the last logged steps.
    """
    trainer = ModuleTrainer(method, decoder, recipe, out, start)
    figures = trainer.run(sequences)
    facts = {**provenance, **method.provenance(decoder), "recipe": asdict(recipe), "figures": figures}
    tensors = {name: value.to(torch.bfloat16) for name, value in trainer.module.state_dict().items()}
    save_module(out, tensors, facts)
    return figures
