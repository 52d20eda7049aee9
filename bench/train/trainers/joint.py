"""Training of a whole model with a method's modules; the same code for all methods that tune the target.

The frozen model only prepares each dialogue, for instance by a segmentation, and a copy of it is trained.
`bench.train.trainers.loop` does the rest: schedule, log and checkpoints. The method defines the shapes of its
batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

from bench.runtime.decoder import Decoder
from bench.runtime.modules import MODEL_FILE, save_model
from bench.runtime.stored_config import stored_config
from bench.train.data.batching import group_by_length
from bench.train.trainers.checkpoint import trained_state
from bench.train.trainers.course import TOKENS
from bench.train.trainers.loop import NO_FACTS, Dialogue, TrainingLoop
from bench.train.trainers.recipe import JointRecipe
from methods.core.base import Example, ModelTrainer


class JointTraining(TrainingLoop[Dialogue]):
    """One training run of a whole model.

    Args:
        trainer: The method's model, examples and loss.
        decoder: The frozen model; training passes run in its precision, the trained weights are fp32.
        recipe: Settings.
        out: Folder of the run; checkpoints go to ``out/work``.
        start: Folders of tuned models; training starts from the mean of their weights, or from the decoder's
            weights if there are none.
        facts: See `TrainingLoop`.
    """

    _recipe: JointRecipe

    def __init__(
        self,
        trainer: ModelTrainer,
        decoder: Decoder,
        recipe: JointRecipe,
        out: Path,
        start: Sequence[Path] = (),
        facts: Mapping[str, Any] = NO_FACTS,
    ) -> None:
        self._trainer, self._decoder = trainer, decoder
        self._rates = (recipe.lr * recipe.base_share, recipe.lr)
        super().__init__("model", recipe, out, [folder / MODEL_FILE for folder in start], facts)

    @property
    def model(self) -> nn.Module:
        """The model in training."""
        return self._trained

    def _new(self) -> nn.Module:
        return self._trainer.new_model(self._decoder)

    def _new_optimizer(self) -> torch.optim.AdamW:
        """Two parameter groups: the model's own weights, then the new modules' weights."""
        new = tuple(self._trainer.new_parts())
        named = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for name, weight in named if name.startswith(new) is is_new], "lr": rate}
            for is_new, rate in zip((False, True), self._rates, strict=True)
        ]
        return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=self._recipe.weight_decay)

    def train_step(self, dialogues: Sequence[Dialogue]) -> dict[str, float]:
        """See `TrainingLoop.train_step`; figures are means over tokens.

        Raises:
            FloatingPointError: If a figure is not finite.
        """
        recipe = self._recipe
        examples = self._examples(dialogues)
        total = sum(example.tokens for example in examples)
        figures = {TOKENS: float(total)}
        for part in group_by_length(examples, recipe.micro_tokens, len):
            share = sum(example.tokens for example in part) / total
            with self._precision():
                loss, extra = self._trainer.joint_loss(self.model, part, self._decoder)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            for name, value in extra.items():
                figures[name] = figures.get(name, 0.0) + float(value) * share
        if not all(math.isfinite(value) for value in figures.values()):
            raise FloatingPointError(f"figures must stay finite, got {figures} at step {self._step}")
        self._update(*self._rates)
        return figures

    def _precision(self) -> torch.autocast:
        """Runs passes in the decoder's precision while the trained weights stay fp32."""
        dtype = self._decoder.dtype
        is_half = dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self._decoder.device.type, dtype, enabled=is_half)

    def _examples(self, dialogues: Iterable[Dialogue]) -> list[Example]:
        rng = Random(f"{self._recipe.seed}/{self._step}")
        most = self._recipe.max_tokens
        examples: list[Example] = []
        for ids, is_answer in dialogues:
            examples += self._trainer.examples(self.model, ids[:most], is_answer[:most], self._decoder, rng)
        return examples


def train_joint(
    trainer: ModelTrainer,
    decoder: Decoder,
    base: Path,
    dialogues: Iterator[Dialogue],
    recipe: JointRecipe,
    out: Path,
    provenance: Mapping[str, Any],
    start: Sequence[Path] = (),
) -> dict[str, float]:
    """Train a method's whole model and write what was trained to `out` in bf16.

    Args:
        trainer: The method's model, examples and loss.
        decoder: The frozen model.
        base: The checkpoint's folder, or a GGUF file; the result gets its configuration with a block of the
            method added.
        dialogues: Endless stream of dialogues; a resumed run needs the same stream from its beginning.
        recipe: Settings.
        out: Folder of the run, later the method's `weights`.
        provenance: Stored in the method's block, together with the recipe and the figures.
        start: See `JointTraining`.

    Returns:
        Mean figures of the last logged steps.
    """
    blocks = trainer.blocks(decoder)
    training = JointTraining(trainer, decoder, recipe, out, start, {**provenance, **blocks})
    figures = training.run(dialogues)
    tensors = {name: value.to(torch.bfloat16) for name, value in trained_state(training.model).items()}
    facts = {**provenance, "recipe": asdict(recipe), "figures": figures}
    config = stored_config(base)
    config |= {name: {**block, "training": facts} for name, block in blocks.items()}
    save_model(out, tensors, config)
    return figures
