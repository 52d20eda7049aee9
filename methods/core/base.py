"""What a decoding method is: the protocol between the harness and a method. Read this first to write one.

A `Method` has three functions: `Method.attach` binds it to a model, `Method.generate` decodes one answer, and
`Method.exactness` says what it promises. It sees token ids, a decoder, a sampler and a phase clock; never
text, files, wall time or the configuration. The harness cuts its output at the first end token and at the
budget, recounts everything and times it.

Few methods start from here. Drafting methods derive from `methods.core.chain.ChainMethod` or
`methods.core.tree_round.TreeMethod`, which bring the decoding loop and leave `draft` to write;
the shortest complete methods are `methods.core.autoregressive` (no draft) and `methods.lookup.prompt_lookup`
(a chain). A class that is not `Lossless` says what it promises itself. `Stateful`, `Trainable` and
`FullTrainable` are for methods that learn from prompts or have trained weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from bench.errors import UserError
from bench.records.model import Generation, PhaseName
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler

if TYPE_CHECKING:
    from methods.training.rows import TrainingRows


class Exactness(StrEnum):
    """What a method promises about its output; the harness checks it and tables show it."""

    GREEDY_EXACT = "greedy-exact"
    """The ids of greedy decoding, token for token."""
    SAMPLING_EXACT = "sampling-exact"
    """Samples from the target's own distribution."""
    LOSSY = "lossy"
    """Neither."""


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: after `max_new_tokens` tokens, including the prefill's, or after an end token."""

    max_new_tokens: int
    eos_ids: frozenset[int]

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")

    def room(self, emitted: int) -> int:
        """Tokens worth drafting after `emitted` ones: all that are left but one, the target's own."""
        return max(0, self.max_new_tokens - emitted - 1)

    def is_over(self, ids: Sequence[int], new: int) -> bool:
        """Whether the generation ends with `ids`, of which the newest round emitted the last `new`."""
        return len(ids) >= self.max_new_tokens or any(token in self.eos_ids for token in ids[-new:])


class Clock(Protocol):
    """Attributes decode time to phases; on a GPU it reads no times before the answer is complete."""

    def phase(self, name: PhaseName) -> AbstractContextManager[None]:
        """A context: the time inside its ``with`` block counts as phase `name`."""

    def first_token(self) -> None:
        """Note that the prefill has ended and its token is known: decoding starts."""


class NoClock:
    """A `Clock` that measures nothing, for decoding that is not timed."""

    def phase(self, name: PhaseName) -> AbstractContextManager[None]:
        return nullcontext()

    def first_token(self) -> None:
        return None


@runtime_checkable
class Method(Protocol):
    """A decoding method; the parameters of its constructor are the keys of its yaml in ``conf/method``."""

    def attach(self, decoder: Decoder) -> None:
        """Bind to a model: load and check trained modules, allocate buffers.

        Raises:
            bench.errors.UserError: If weights are missing or do not fit this model.
        """

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        """Decode one answer.

        Args:
            prompt_ids: Token ids, shape [P], int64, on the decoder's device.
            budget: When to stop. The last round may exceed it; the harness cuts the output.
            sampler: Turns logits into tokens, greedy or sampled.
            clock: Notified of the first token and of the phases of every round.

        Returns:
            All emitted token ids, the first picked from the prefill's logits, and the counts of every round.
        """

    def exactness(self, sampler: Sampler) -> Exactness:
        """What the method promises about its output under this sampler."""


class Lossless:
    """Base class of methods whose output is the target's own under every sampler."""

    def exactness(self, sampler: Sampler) -> Exactness:
        """See `Method.exactness`."""
        return Exactness.GREEDY_EXACT if sampler.is_greedy else Exactness.SAMPLING_EXACT


@dataclass(frozen=True, slots=True)
class Traits:
    """What tables and predictions must know of a method, beside its output.

    A method declares them as the attribute ``traits``: of the class, or set in the constructor where they
    depend on its parameters. A method without that attribute has the defaults.

    Args:
        is_reimplementation: Written from the paper alone, without the authors' code.
        is_cost_only: Its acceptance is given, so that only its times mean anything.
        several_tokens_per_row: A round's pass reads one row, however many tokens it then emits.
        draft_cost: Name of the simulated draft cost, of a method that has one.
        pass_weights: Parameters that a pass reads, by part (see `bench.metrics.lossy.PassWeights`), of a
            method whose passes read others than the target's; known once it is attached.
        needs_experts: It runs on models with mixtures of experts alone.
    """

    is_reimplementation: bool = False
    is_cost_only: bool = False
    several_tokens_per_row: bool = False
    draft_cost: str | None = None
    pass_weights: Mapping[str, int] | None = None
    needs_experts: bool = False


def traits_of(method: Method) -> Traits:
    """The traits that a method declares, or the defaults.

    Raises:
        UserError: If its attribute ``traits`` is something else, or if it declares one of the traits as an
            attribute of its own, which nothing would read.
    """
    stray = [field.name for field in fields(Traits) if hasattr(method, field.name)]
    if stray:
        raise UserError(
            f"{type(method).__name__} has the attribute {stray[0]}, which is one of its traits",
            f"write traits = Traits({stray[0]}=...) in the class",
        )
    traits = getattr(method, "traits", Traits())
    if not isinstance(traits, Traits):
        raise UserError(
            f"traits of {type(method).__name__} must be methods.core.base.Traits, got {traits!r}",
            "write traits = Traits(...) in the class, or leave it out",
        )
    return traits


@runtime_checkable
class Stateful(Protocol):
    """A method that learns from the prompts it decodes; a reset after the warm-up makes it forget them."""

    def reset(self) -> None:
        """Return to the state after `attach`."""


class DraftingMethod(Lossless):
    """Base class of the chain and tree methods: keeps the decoder and runs prompts through it."""

    _decoder: Decoder

    def attach(self, decoder: Decoder) -> None:
        """Bind to a model; a method with weights or buffers of its own overrides this."""
        self._decoder = decoder

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        """Run the prompt [P] through the target; logits after its last token, shape [1, V]."""
        return self._decoder.prefill(prompt_ids)


def check_exit(exit_layer: int, decoder: Decoder, method: str) -> None:
    """Refuse an exit that leaves no layer to draft with or none to verify with.

    Raises:
        UserError: If the exit lies outside ``1 .. L - 1``.
    """
    if not 1 <= exit_layer < decoder.depth:
        raise UserError(
            f"{method}: exit_layer must lie in 1..{decoder.depth - 1} for this model, got {exit_layer}",
            f"set method.exit_layer; for {decoder.depth} layers try {max(1, decoder.depth // 8)}",
        )


@runtime_checkable
class ModuleTrainer(Protocol):
    """What training needs to know of a method's modules: how they start, what they read, what they learn."""

    def new_module(self, decoder: Decoder) -> nn.Module:
        """A fresh fp32 module for this model; what needs gradients is what `attach` expects on disk."""

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        """Layers whose entering rows the loss reads; L means the rows after the last layer.

        The target's own next tokens need no tap: every loss finds them in `TrainingRows.likely`.
        """

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch of dialogues, averaged over its trained positions, and figures worth logging."""

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
        """A trainable fp32 copy of the model with fresh modules; what needs gradients is the checkpoint."""

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
