"""Settings of a training run: of a method's modules on a frozen model, or of the whole model."""

import math
from dataclasses import dataclass, fields

from bench.compose.components import require_least
from bench.errors import UserError

MOST_COUNT = 10**9
"""Far more steps, dialogues or tokens than any training has; beyond it Python's own limits begin."""


@dataclass(frozen=True, slots=True)
class ModuleRecipe:
    """Settings of a run that trains modules: AdamW with linear warm-up and linear decay to zero.

    Args:
        steps: Optimiser steps.
        batch: Dialogues per step.
        max_tokens: Longer dialogues are cut to this many tokens.
        pass_tokens: Most tokens of the dialogues whose loss is computed at once.
        lr: Peak learning rate.
        warmup_steps: Steps over which the rate rises to its peak.
        weight_decay: Weight decay of AdamW.
        clip: Largest gradient norm; larger gradients are scaled down to it.
        seed: Seed of the modules' first weights and of the data's order.
        checkpoint_every: Steps between checkpoints.
        log_every: Steps between log lines.
    """

    steps: int = 400
    batch: int = 16
    max_tokens: int = 2048
    pass_tokens: int = 2048
    lr: float = 2e-3
    warmup_steps: int = 30
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    checkpoint_every: int = 100
    log_every: int = 20

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "max_tokens", "pass_tokens", "checkpoint_every", "log_every"):
            require_least(f"recipe.{name}", getattr(self, name), 1, MOST_COUNT)
        for name in ("warmup_steps", "weight_decay", "seed"):
            require_least(f"recipe.{name}", getattr(self, name), 0, MOST_COUNT)
        for field in fields(self):
            if field.name in ("lr", "clip") and not 0 < getattr(self, field.name) < math.inf:
                value = getattr(self, field.name)
                what = f"recipe.{field.name} must be finite and above 0, got {value}"
                raise UserError(what, f"the default is {field.default}")

    def lr_factor(self, step: int) -> float:
        """Share of the peak rate at a step, counted from 0."""
        return min((step + 1) / max(1, self.warmup_steps), (self.steps - step) / self.steps)


@dataclass(frozen=True, slots=True)
class JointRecipe(ModuleRecipe):
    """Settings of a run that trains the whole model: AdamW on fp32 weights, linear warm-up, cosine decay.

    `lr` is the peak rate of the method's new modules.

    Args:
        base_share: Peak rate of the model's own weights, as a share of `lr`.
        final_share: Rate at the end of the cosine, as a share of the peak rate.
        micro_tokens: Largest size of one pass, in tokens with padding.
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
        require_least("recipe.micro_tokens", self.micro_tokens, 1)

    def lr_factor(self, step: int) -> float:
        """Share of the peak rate at a step, counted from 0."""
        share = step / self.steps
        cosine = self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * share)) / 2
        return min((step + 1) / max(1, self.warmup_steps), cosine)
