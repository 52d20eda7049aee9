"""An estimate of the memory that a training needs, made before any weight is loaded.

It adds up the weights and the cache of the frozen model, 16 bytes for each trained parameter (fp32 weight,
gradient and AdamW's two moments), and the longest pass, measured by `bench.train.memory.peak`: as many tokens
as the recipe allows, all of them answer tokens, with the tapped rows. Not included are the GPU driver and, on
a CPU, the copies of weights in another layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import torch
from torch import nn

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.show.layout import byte_size
from bench.train.data.batching import group_by_length
from bench.train.memory.peak import peak_bytes
from bench.train.trainers.modules import observe
from bench.train.trainers.recipe import JointRecipe, ModuleRecipe
from methods.core.base import ModelTrainer, ModuleTrainer
from methods.training.rows import packed

TRAINED_BYTES = 16
"""Bytes per trained parameter: fp32 weight, gradient, and two moments."""
FROZEN_BYTES = 4
"""Bytes per parameter that a trained model has and does not learn."""
UPDATE_BYTES = 4
"""Extra bytes per trained parameter while AdamW steps, after the pass: the roots of its second moments."""
_VALUES = (0.0, 1.0)
"""Values that stand for every number of a pass, in two trials: losses may branch on how likely a token is."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Memory of a training on its device.

    Args:
        weight_bytes: Weights of the frozen model, and those of a trained copy that are not trained.
        cache_bytes: Its KV cache.
        trained: Number of trained parameters.
        tokens: Tokens of the longest pass.
        pass_bytes: Peak of such a pass, or of the optimiser step if that is higher, beyond the other parts;
            None if the method's loss cannot be computed on tensors without storage.
        is_half: Whether the frozen model has 16-bit weights.
    """

    weight_bytes: int
    cache_bytes: int
    trained: int
    tokens: int
    pass_bytes: int | None
    is_half: bool

    @property
    def certain_bytes(self) -> int:
        """Memory that is occupied from the first step to the last."""
        return self.weight_bytes + self.cache_bytes + TRAINED_BYTES * self.trained

    @property
    def total_bytes(self) -> int:
        """Sum of all parts."""
        return self.certain_bytes + (self.pass_bytes or 0)

    def line(self) -> str:
        """All parts as one line of text."""
        trained = f"{byte_size(TRAINED_BYTES * self.trained)} ({self.trained / 1e6:.1f} M parameters, AdamW)"
        one_pass = "unknown" if self.pass_bytes is None else f"up to {byte_size(self.pass_bytes)}"
        return (
            f"about {byte_size(self.total_bytes)}: frozen model {byte_size(self.weight_bytes)}, "
            f"cache {byte_size(self.cache_bytes)}, trained {trained}, "
            f"a pass over {self.tokens} tokens {one_pass}"
        )

    def fix(self, room_bytes: int) -> str:
        """Advice for the user if only `room_bytes` are available."""
        ways = [] if self.is_half else ["set runtime.dtype=bfloat16"]
        if self.certain_bytes < room_bytes:
            ways.append(
                "lower recipe.max_tokens and recipe.pass_tokens, or recipe.micro_tokens if there is one"
            )
        else:
            ways.append("take a larger device or a smaller model")
        return ", or ".join(ways)


def training_memory(
    trainer: ModuleTrainer | ModelTrainer, decoder: Decoder, recipe: ModuleRecipe
) -> TrainingMemory:
    """Estimate the memory of a training.

    Args:
        trainer: Trainer of the method's module, or of its whole model.
        decoder: The frozen model without storage (`bench.runtime.random_weights.empty_decoder`).
        recipe: Settings; a `JointRecipe` for a `ModelTrainer`.

    Raises:
        UserError: If the method cannot be trained on this model.
    """
    tokens = min(recipe.max_tokens, decoder.capacity)
    with decoder.device:
        if isinstance(trainer, ModuleTrainer):
            module = trainer.new_module(decoder)
            dialogues = max(1, recipe.pass_tokens // tokens)
            run = partial(_module_pass, trainer, module, decoder, tokens, dialogues)
            tokens *= dialogues
        else:
            assert isinstance(recipe, JointRecipe)
            tokens = max(tokens, recipe.micro_tokens)
            module = trainer.new_model(decoder)
            run = partial(_joint_pass, trainer, module, decoder, recipe)
    learning = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in learning:
        weight.grad = torch.empty_like(weight)  # already in TRAINED_BYTES, so not to be counted in the pass
    trained, width = sum(weight.numel() for weight in learning), decoder.dtype.itemsize
    frozen = sum(weight.numel() for weight in module.parameters()) - trained
    pass_bytes = _highest_peak(run)
    if pass_bytes is not None and isinstance(trainer, ModelTrainer) and width < 4:
        pass_bytes += width * (trained + frozen)  # autocast keeps a copy of the weights
    elif pass_bytes is not None and isinstance(trainer, ModuleTrainer) and width == 4:
        pass_bytes += width * tokens * decoder.config.width  # `linear.CompiledProduct` copies its input rows
    return TrainingMemory(
        weight_bytes=decoder.parameters * width + FROZEN_BYTES * frozen,
        cache_bytes=decoder.cache.token_bytes * decoder.capacity,
        trained=trained,
        tokens=tokens,
        pass_bytes=None if pass_bytes is None else max(pass_bytes, UPDATE_BYTES * trained),
        is_half=width < 4,
    )


def require_memory(memory: TrainingMemory, room_bytes: int, place: str) -> None:
    """Check that a training fits.

    Args:
        memory: The memory that it needs.
        room_bytes: The memory that is available.
        place: Where it is available, as the message words it, such as ``the GPU has free``.

    Raises:
        UserError: If it does not fit.
    """
    if memory.total_bytes > room_bytes:
        raise UserError(
            f"training needs {memory.line()}; {place} {byte_size(room_bytes)}", memory.fix(room_bytes)
        )


def plan_lines(memory: TrainingMemory | None, room_bytes: int, place: str) -> list[str]:
    """The lines of a plan about memory, in the layout of `bench.plan.outlook`.

    Args:
        memory: None if the model's shape is not known.
        room_bytes: The memory that is available.
        place: Name of the device that has it.
    """
    if memory is None:
        return ["  memory  unknown: neither the checkpoint nor its shape is here"]
    fits = memory.total_bytes <= room_bytes
    line = (
        f"  memory  {memory.line()}; {place}: {'' if fits else 'DOES NOT FIT: '}has {byte_size(room_bytes)}"
    )
    return [line] if fits else [line, f"  fix     {memory.fix(room_bytes)}"]


def _highest_peak(run: Callable[[], object]) -> int | None:
    try:
        return max(peak_bytes(run, value) for value in _VALUES)
    except UserError:
        raise
    except (RuntimeError, ValueError):  # from torch for a tensor without storage, from a loss for odd numbers
        return None


class _HighestDraw(Random):
    """Draws 1.0, so that no rare variant of an example is chosen; variants take no more memory."""

    def random(self) -> float:
        return 1.0


def _module_pass(
    trainer: ModuleTrainer, module: nn.Module, decoder: Decoder, tokens: int, dialogues: int
) -> None:
    """Forward and backward pass of a batch of dialogues of `tokens` tokens each."""
    rows = [observe(trainer, decoder, [0] * tokens, [True] * tokens) for _ in range(dialogues)]
    trainer.loss(module, packed(rows), decoder)[0].backward()  # type: ignore[no-untyped-call]


def _joint_pass(trainer: ModelTrainer, model: nn.Module, decoder: Decoder, recipe: JointRecipe) -> None:
    """Forward and backward pass of one batch, in fp32: autocast cannot handle tensors without storage."""
    tokens = min(recipe.max_tokens, decoder.capacity)
    is_answer = [False] + [True] * (tokens - 1)
    examples = trainer.examples(model, [0] * tokens, is_answer, decoder, _HighestDraw())
    part = group_by_length(examples * recipe.batch, recipe.micro_tokens, len)[0]
    trainer.joint_loss(model, part, decoder)[0].backward()  # type: ignore[no-untyped-call]
