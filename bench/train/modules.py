"""Training of a method's modules on a frozen model: one trainer for every trainable method.

A step runs each sequence through the decoder that benchmarks run on, hands the tapped rows to the method's
loss and steps the optimiser. It knows no method and no task. See `bench.train.loop` for all around it.

Shapes: T tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.modules import WEIGHTS_FILE, save_module
from bench.train.course import TOKENS
from bench.train.loop import NO_FACTS, Dialogue, TrainingLoop
from methods.core.base import ModuleTrainer, TrainingRows


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


class ModuleTraining(TrainingLoop):
    """One training run.

    Args:
        trainer: The method's module and its loss.
        decoder: The frozen model.
        recipe: Settings.
        out: Folder of the run: its course, and its checkpoints in ``out/work``.
        start: Folders of trained modules whose mean to begin with; without any, with a new one.
        facts: See `TrainingLoop`.
    """

    def __init__(
        self,
        trainer: ModuleTrainer,
        decoder: Decoder,
        recipe: ModuleRecipe,
        out: Path,
        start: Sequence[Path] = (),
        facts: Mapping[str, Any] = NO_FACTS,
    ) -> None:
        self._trainer, self._decoder = trainer, decoder
        super().__init__("module", recipe, out, [folder / WEIGHTS_FILE for folder in start], facts)

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        return self._trained

    def _new(self) -> nn.Module:
        return self._trainer.new_module(self._decoder).to(self._decoder.device)

    def _new_optimizer(self) -> torch.optim.AdamW:
        recipe = self._recipe
        return torch.optim.AdamW(
            self.module.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
        )

    def train_step(self, dialogues: Sequence[Dialogue]) -> dict[str, float]:
        recipe = self._recipe
        figures = {TOKENS: 0.0}
        for ids, is_answer in dialogues:
            answers = is_answer[: recipe.max_tokens]
            rows = observe(self._trainer, self._decoder, ids[: recipe.max_tokens], answers)
            loss, extra = self._trainer.loss(self.module, rows, self._decoder)
            (loss / recipe.batch).backward()  # type: ignore[no-untyped-call]
            figures[TOKENS] += sum(answers[1:])
            for name, value in {"loss": float(loss.detach()), **extra}.items():
                figures[name] = figures.get(name, 0.0) + value / recipe.batch
        self._update(recipe.lr)
        return figures


@torch.no_grad()
def observe(trainer: ModuleTrainer, decoder: Decoder, ids: list[int], is_answer: list[bool]) -> TrainingRows:
    """One sequence through the frozen model: the rows that the method's loss reads."""
    tokens = torch.tensor(ids, device=decoder.device)
    taps = dict.fromkeys(trainer.taps(decoder), decoder.embedding)
    decoder.cache.truncate(0)
    decoder.run_layers(decoder.embed(tokens), decoder.placement.chain(0, len(ids)), taps=taps)
    mask = torch.tensor([*is_answer[1:], False], device=decoder.device)
    return TrainingRows(tokens, taps, mask)


def train_module(
    trainer: ModuleTrainer,
    decoder: Decoder,
    sequences: Iterator[Dialogue],
    recipe: ModuleRecipe,
    out: Path,
    provenance: Mapping[str, Any],
    start: Sequence[Path] = (),
) -> dict[str, float]:
    """Train a method's module and write it to `out`, which holds course and checkpoints as well.

    Args:
        trainer: The method's module and its loss.
        decoder: The frozen model.
        sequences: Endless stream of dialogues, the same at every start.
        recipe: Settings.
        out: Folder that `methods` load from.
        provenance: Stored beside the weights, with the recipe and the method's own settings.
        start: Folders of trained modules whose mean to begin with.

    Returns:
        Figures of the last logged steps.
    """
    facts = {**provenance, **trainer.provenance(decoder)}
    training = ModuleTraining(trainer, decoder, recipe, out, start, facts)
    figures = training.run(sequences)
    facts |= {"recipe": asdict(recipe), "figures": figures}
    tensors = {name: value.to(torch.bfloat16) for name, value in training.module.state_dict().items()}
    save_module(out, tensors, facts)
    return figures
