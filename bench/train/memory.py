"""What a training will need in memory, reckoned before any weight is loaded.

Weights and cache are those of the decoder that runs; what is trained takes 16 bytes a parameter: fp32
weights, gradients and AdamW's two moments. A pass is weighed (`bench.train.weighing`) at its longest: as many
tokens as the recipe allows, every one of an answer; taps are part of it. The driver and a CPU's rearranged
weights come on top.
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
from bench.train.joint import JointRecipe, cut
from bench.train.modules import ModuleRecipe, observe
from bench.train.weighing import peak_bytes
from methods.core.base import FullTrainable, Trainable

TRAINED_BYTES = 16
"""Of a trained parameter: fp32 weight, gradient, and two moments."""
UPDATE_BYTES = 4
"""Of a trained parameter while AdamW steps, when a pass is over: the roots of its second moments."""
_VALUES = (0.0, 1.0)
"""What numbers are taken for, one after the other: an answer of certain tokens, and one of uncertain ones."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes of a training on its device.

    Args:
        weight_bytes: Of the frozen model.
        cache_bytes: Set aside for its keys and values.
        trained: Parameters that are trained.
        tokens: Of the longest pass.
        pass_bytes: What such a pass holds beside, at most, or the update if it needs more; None if the
            method's loss cannot be run without numbers.
        is_half: Whether the model lies in 16 bits.
    """

    weight_bytes: int
    cache_bytes: int
    trained: int
    tokens: int
    pass_bytes: int | None
    is_half: bool

    @property
    def certain_bytes(self) -> int:
        """Held from the first step to the last."""
        return self.weight_bytes + self.cache_bytes + TRAINED_BYTES * self.trained

    @property
    def total_bytes(self) -> int:
        """All that was reckoned."""
        return self.certain_bytes + (self.pass_bytes or 0)

    def line(self) -> str:
        """The parts in words."""
        trained = f"{byte_size(TRAINED_BYTES * self.trained)} ({self.trained / 1e6:.1f} M parameters, AdamW)"
        beside = "unknown" if self.pass_bytes is None else f"up to {byte_size(self.pass_bytes)}"
        return (
            f"about {byte_size(self.total_bytes)}: frozen model {byte_size(self.weight_bytes)}, "
            f"cache {byte_size(self.cache_bytes)}, trained {trained}, "
            f"a pass over {self.tokens} tokens {beside}"
        )

    def fix(self, room_bytes: int) -> str:
        """What to change where there is not enough room."""
        ways = [] if self.is_half else ["set runtime.dtype=bfloat16"]
        if self.certain_bytes < room_bytes:
            ways.append("lower recipe.max_tokens, and recipe.micro_tokens where the recipe has it")
        else:
            ways.append("take a larger device or a smaller model")
        return ", or ".join(ways)


def training_memory(
    method: Trainable | FullTrainable, decoder: Decoder, recipe: ModuleRecipe
) -> TrainingMemory:
    """Reckon a training.

    Args:
        method: Whose module, or whose model.
        decoder: The model without storage (`bench.runtime.random_weights.empty_decoder`).
        recipe: Settings; a `JointRecipe` for a `FullTrainable`.

    Raises:
        UserError: If the method cannot be trained on this model.
    """
    tokens = min(recipe.max_tokens, decoder.capacity)
    with decoder.device:
        if isinstance(method, Trainable):
            module = method.new_module(decoder)
            run = partial(_module_pass, method, module, decoder, tokens)
        else:
            assert isinstance(recipe, JointRecipe)
            tokens = max(tokens, recipe.micro_tokens)
            module = method.new_model(decoder)
            run = partial(_joint_pass, method, module, decoder, recipe)
    for weight in module.parameters():
        weight.grad = torch.empty_like(weight)  # counted with the parameters
    trained, width = sum(one.numel() for one in module.parameters()), decoder.dtype.itemsize
    beside = _heaviest(run)
    if beside is not None and isinstance(method, FullTrainable) and width < 4:
        beside += width * trained  # autocast keeps a copy of the weights
    return TrainingMemory(
        weight_bytes=decoder.parameters * width,
        cache_bytes=decoder.cache.token_bytes * decoder.capacity,
        trained=trained,
        tokens=tokens,
        pass_bytes=None if beside is None else max(beside, UPDATE_BYTES * trained),
        is_half=width < 4,
    )


def require_memory(memory: TrainingMemory, room_bytes: int, place: str) -> None:
    """Refuse a training that does not fit.

    Args:
        memory: What it needs.
        room_bytes: What there is.
        place: How the message begins what there is, such as ``the GPU has free``.

    Raises:
        UserError: If it needs more.
    """
    if memory.total_bytes > room_bytes:
        raise UserError(
            f"training needs {memory.line()}; {place} {byte_size(room_bytes)}", memory.fix(room_bytes)
        )


def plan_lines(memory: TrainingMemory | None, room_bytes: int, place: str) -> list[str]:
    """What a plan says of memory, in the words of `bench.plan.outlook`.

    Args:
        memory: None if the model's shape is not known.
        room_bytes: What there is.
        place: What has it.
    """
    if memory is None:
        return ["  memory  unknown: neither the checkpoint nor its shape is here"]
    fits = memory.total_bytes <= room_bytes
    line = (
        f"  memory  {memory.line()}; {place}: {'' if fits else 'DOES NOT FIT: '}has {byte_size(room_bytes)}"
    )
    return [line] if fits else [line, f"  fix     {memory.fix(room_bytes)}"]


def _heaviest(run: Callable[[], object]) -> int | None:
    try:
        return max(peak_bytes(run, value) for value in _VALUES)
    except UserError:
        raise
    except (RuntimeError, ValueError):  # how torch refuses a tensor without storage, and a loss odd numbers
        return None


class _HighestDraw(Random):
    """Draws above every share, so that examples are prepared the plain way: the others take no more room."""

    def random(self) -> float:
        return 1.0


def _module_pass(method: Trainable, module: nn.Module, decoder: Decoder, tokens: int) -> None:
    """One sequence, forth and back."""
    rows = observe(method, decoder, [0] * tokens, [True] * tokens)
    method.loss(module, rows, decoder)[0].backward()  # type: ignore[no-untyped-call]


def _joint_pass(method: FullTrainable, model: nn.Module, decoder: Decoder, recipe: JointRecipe) -> None:
    """One batch of examples, forth and back, in fp32: autocast knows no tensors without storage."""
    tokens = min(recipe.max_tokens, decoder.capacity)
    is_answer = [False] + [True] * (tokens - 1)
    examples = method.examples(model, [0] * tokens, is_answer, decoder, _HighestDraw())
    part = cut(examples * recipe.batch, recipe.micro_tokens)[0]
    method.joint_loss(model, part, decoder)[0].backward()  # type: ignore[no-untyped-call]
