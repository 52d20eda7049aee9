"""Training of a whole model together with a method's modules: one trainer for all that tune their target.

Beside `bench.train.modules`, where the model is frozen: here the frozen model only looks at each dialogue
once, to prepare it (a segmentation, say), and a copy of it is trained. See `bench.train.loop` for all around
it.

Shapes: none; the method lays out its own batches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.modules import MODEL_FILE, save_model
from bench.train.course import TOKENS
from bench.train.loop import NO_FACTS, Dialogue, TrainingLoop
from bench.train.modules import ModuleRecipe
from methods.core.base import Example, ModelTrainer


@dataclass(frozen=True, slots=True)
class JointRecipe(ModuleRecipe):
    """Settings of a run. AdamW on fp32 masters, linear warm-up, then a cosine; `lr` is that of new modules.

    Args:
        base_share: Rate of the model's own weights, as a share of `lr`.
        final_share: Share of the peak rates that the cosine ends at.
        micro_tokens: Padded entries of one pass, at most.
    """

    base_share: float = 0.5
    final_share: float = 0.02
    micro_tokens: int = 2048

    def __post_init__(self) -> None:
        ModuleRecipe.__post_init__(self)
        for name in ("base_share", "final_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"recipe.{name} must lie in [0, 1], got {getattr(self, name)}", f"correct recipe.{name}"
                )
        if self.micro_tokens < 1:
            raise UserError("recipe.micro_tokens must be at least 1", "raise recipe.micro_tokens")

    def lr_factor(self, step: int) -> float:
        """Share of the peak rate at a step, counted from 0."""
        share = step / self.steps
        cosine = self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * share)) / 2
        return min((step + 1) / max(1, self.warmup_steps), cosine)


class JointTraining(TrainingLoop):
    """One training run.

    Args:
        trainer: The method's model, examples and loss.
        decoder: The frozen model; its precision is that of the training passes, the masters are fp32.
        recipe: Settings.
        out: Folder of the run: its course, and its checkpoints in ``out/work``.
        start: Folders of tuned models whose mean to begin with; without any, with the decoder's weights.
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
        """What is trained."""
        return self._trained

    def _new(self) -> nn.Module:
        return self._trainer.new_model(self._decoder)

    def _new_optimizer(self) -> torch.optim.AdamW:
        """Two groups: the model's own weights, then the new ones."""
        new = tuple(self._trainer.new_parts())
        named = list(self.model.named_parameters())
        groups = [
            {"params": [weight for name, weight in named if name.startswith(new) is is_new], "lr": rate}
            for is_new, rate in zip((False, True), self._rates, strict=True)
        ]
        return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=self._recipe.weight_decay)

    def train_step(self, dialogues: Sequence[Dialogue]) -> dict[str, float]:
        """See `TrainingLoop.train_step`; figures are weighted by tokens.

        Raises:
            FloatingPointError: If one is not finite.
        """
        recipe = self._recipe
        examples = self._examples(dialogues)
        total = sum(example.tokens for example in examples)
        figures = {TOKENS: float(total)}
        for part in cut(examples, recipe.micro_tokens):
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
        """What passes of the trained model run in: the decoder's precision, the masters stay fp32."""
        dtype = self._decoder.dtype
        is_half = dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self._decoder.device.type, dtype, enabled=is_half)

    def _examples(self, dialogues: Iterable[Dialogue]) -> list[Example]:
        rng = Random(f"{self._recipe.seed}/{self._step}")
        most = self._recipe.max_tokens
        found: list[Example] = []
        for ids, is_answer in dialogues:
            found += self._trainer.examples(self.model, ids[:most], is_answer[:most], self._decoder, rng)
        return found


def cut(examples: Sequence[Example], most: int) -> list[list[Example]]:
    """Batches of examples of similar length, at least one each, of at most `most` padded entries."""
    parts: list[list[Example]] = []
    for example in sorted(examples, key=len, reverse=True):
        if parts and (len(parts[-1]) + 1) * len(parts[-1][0]) <= most:  # the first one is the longest
            parts[-1].append(example)
        else:
            parts.append([example])
    return parts


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
    """Train a method's whole model and write it to `out` in bf16; `out` holds course and checkpoints as well.

    Args:
        trainer: The method's model, examples and loss.
        decoder: The model to start from.
        base: The checkpoint's folder; its config.json is the result's, with the method's own block added.
        dialogues: Endless stream of dialogues, the same at every start.
        recipe: Settings.
        out: Folder that `methods` load from.
        provenance: Stored in the method's block, with the recipe and the figures.
        start: Folders of tuned models whose mean to begin with.

    Returns:
        Mean figures of the last logged steps.
    """
    blocks = trainer.blocks(decoder)
    training = JointTraining(trainer, decoder, recipe, out, start, {**provenance, **blocks})
    figures = training.run(dialogues)
    tensors = {name: value.to(torch.bfloat16) for name, value in training.model.state_dict().items()}
    facts = {**provenance, "recipe": asdict(recipe), "figures": figures}
    config = json.loads((base / "config.json").read_text())
    config |= {name: {**block, "training": facts} for name, block in blocks.items()}
    save_model(out, tensors, config)
    return figures
