"""The protocol between the harness and a decoding method.

A method sees token ids, a decoder, a sampler and a phase clock; never text, files, wall time or the
configuration. The harness cuts its output at the first end token and at the budget, recounts everything and
times it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from bench.records.model import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler

PhaseName = Literal["draft", "verify", "commit", "search"]


class Exactness(StrEnum):
    """What a method promises about its output; the harness checks it, tables show it."""

    GREEDY_EXACT = "greedy-exact"
    """The ids of greedy decoding, token for token."""
    SAMPLING_EXACT = "sampling-exact"
    """Samples from the target's own distribution."""
    LOSSY = "lossy"
    """Neither."""


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: after `max_new_tokens` tokens, the prefill's included, or behind an end token."""

    max_new_tokens: int
    eos_ids: frozenset[int]

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")

    def room(self, emitted: int) -> int:
        """Tokens that may still be drafted: one less than is left, since a round adds one of its own."""
        return max(0, self.max_new_tokens - emitted - 1)

    def is_over(self, ids: Sequence[int], new: int) -> bool:
        """Whether `ids`, whose last `new` entries are new, ends the generation."""
        return len(ids) >= self.max_new_tokens or any(token in self.eos_ids for token in ids[-new:])


class Clock(Protocol):
    """Attributes decode time to phases; reads no time itself on a GPU until the turn is over."""

    def phase(self, name: PhaseName) -> AbstractContextManager[None]:
        """Time inside the ``with`` block belongs to `name`."""

    def first_token(self) -> None:
        """The prefill is over and its token is known: decoding starts."""


@runtime_checkable
class Method(Protocol):
    """A decoding method; constructor parameters are the keys of its yaml."""

    def attach(self, decoder: Decoder) -> None:
        """Bind to a model: load and check trained modules, allocate buffers.

        Raises:
            bench.errors.UserError: If weights are missing or do not fit this model.
        """

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        """Decode one answer.

        Args:
            prompt_ids: Token ids, shape [P], int64, on the decoder's device.
            budget: When to stop. Overshooting inside the last round is cut by the harness.
            sampler: Turns logits into tokens; greedy or sampled.
            clock: Phase attribution.
        """

    def exactness(self, sampler: Sampler) -> Exactness:
        """What is promised under this sampler."""


class Lossless:
    """For methods whose output is the target's own under every sampler."""

    def exactness(self, sampler: Sampler) -> Exactness:
        """See `Method.exactness`."""
        return Exactness.GREEDY_EXACT if sampler.is_greedy else Exactness.SAMPLING_EXACT


@runtime_checkable
class Stateful(Protocol):
    """A method that learns from the prompts it decodes; warming up must leave nothing behind."""

    def reset(self) -> None:
        """Return to the state after `attach`."""


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """One training sequence seen through the frozen target.

    Args:
        ids: Token ids, shape [T], int64.
        hidden: Rows entering layer l for every tapped l, each shape [T, d]; key L holds what the final norm
            sees.
        mask: Whether position t is trained: its next token belongs to an answer, shape [T], bool.
    """

    ids: Tensor
    hidden: Mapping[int, Tensor]
    mask: Tensor


@runtime_checkable
class ModuleTrainer(Protocol):
    """What training needs to know of a method's modules: how they start, what they read, what they learn."""

    def new_module(self, decoder: Decoder) -> nn.Module:
        """A fresh fp32 module for this model; its state dict is what `attach` expects on disk."""

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        """Layers whose entering rows the loss reads; L means the rows after the last layer."""

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of one sequence, averaged over its trained positions, and figures worth logging."""

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        """Settings that the weights depend on; stored next to them and checked by `attach`."""


@runtime_checkable
class Trainable(Method, Protocol):
    """A method with trained modules on a frozen model.

    Training code stands apart from decoding: a proof of the output hashes what decodes and leaves out what is
    imported inside `trainer`, so import the trainer's class there and nowhere else.
    """

    def trainer(self) -> ModuleTrainer:
        """How `bench.train` trains the modules, with the settings of this method."""


class Example(Protocol):
    """One answer as a `ModelTrainer` prepared it."""

    @property
    def tokens(self) -> int:
        """Tokens it teaches: its weight in a batch."""

    def __len__(self) -> int:
        """Entries it occupies in a pass; examples of similar length are batched together."""


@runtime_checkable
class ModelTrainer(Protocol):
    """What training needs to know of a method that tunes the whole model along with its modules."""

    def new_model(self, decoder: Decoder) -> nn.Module:
        """A trainable fp32 copy of the model with fresh modules; its state dict is the checkpoint."""

    def new_parts(self) -> tuple[str, ...]:
        """Prefixes of the names of weights that the base model lacks; they learn at the higher rate."""

    def examples(
        self, model: nn.Module, ids: Sequence[int], is_answer: Sequence[bool], decoder: Decoder, rng: Random
    ) -> list[Example]:
        """Examples of one dialogue, prepared with the untuned model and the tuned one as it is now."""

    def joint_loss(
        self, model: nn.Module, examples: Sequence[Example], decoder: Decoder
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch, averaged over the tokens it teaches, and figures worth logging."""

    def blocks(self, decoder: Decoder) -> dict[str, dict[str, Any]]:
        """What config.json must say of the modules, by the name of its block."""


@runtime_checkable
class FullTrainable(Method, Protocol):
    """A method that decodes with a whole tuned model; see `Trainable` for why its trainer stands apart."""

    def model_trainer(self) -> ModelTrainer:
        """How `bench.train` tunes the model, with the settings of this method."""
