"""Training of a method's modules on a frozen model; the same code for all methods with modules.

A step runs each dialogue through the decoder of the benchmark, passes the hidden rows at the method's taps to
its loss, and updates the modules. `bench.train.trainers.loop` does the rest: schedule, log and checkpoints.

Shapes: T tokens of a dialogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.runtime.decoder import Decoder
from bench.runtime.modules import WEIGHTS_FILE, save_module
from bench.train.trainers.course import TOKENS
from bench.train.trainers.loop import NO_FACTS, Dialogue, TrainingLoop
from bench.train.trainers.recipe import ModuleRecipe
from methods.core.base import ModuleTrainer, TrainingRows


class ModuleTraining(TrainingLoop):
    """One training run of a method's module.

    Args:
        trainer: The method's module and its loss.
        decoder: The frozen model.
        recipe: Settings.
        out: Folder of the run; checkpoints go to ``out/work``.
        start: Folders of trained modules; training starts from the mean of their weights, or from new weights
            if there are none.
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
        """The module in training."""
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
    """Run one dialogue through the frozen model and return the hidden rows that the method's loss reads."""
    tokens = torch.tensor(ids, device=decoder.device)
    taps = dict.fromkeys(trainer.taps(decoder), decoder.embedding)
    decoder.cache.truncate(0)
    decoder.placement.begin(len(ids))
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
    """Train a method's module and write it to `out`.

    Args:
        trainer: The method's module and its loss.
        decoder: The frozen model.
        sequences: Endless stream of dialogues; a resumed run needs the same stream from its beginning.
        recipe: Settings.
        out: Folder of the run, later the method's `weights`.
        provenance: Stored with the weights, together with the recipe and the method's own settings.
        start: See `ModuleTraining`.

    Returns:
        Mean figures of the last logged steps.
    """
    facts = {**provenance, **trainer.provenance(decoder)}
    training = ModuleTraining(trainer, decoder, recipe, out, start, facts)
    figures = training.run(sequences)
    facts |= {"recipe": asdict(recipe), "figures": figures}
    tensors = {name: value.to(torch.bfloat16) for name, value in training.module.state_dict().items()}
    save_module(out, tensors, facts)
    return figures
