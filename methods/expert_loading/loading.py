"""Decoding with experts in slow memory, loaded on demand or ahead of time.

A fast store holds some of the model's experts; the others lie in a file that is read at a limited rate, while
the model computes. The methods differ in what they load ahead:

    moe_lru         nothing: an expert is read when a router has chosen it
    moe_previous    what the next layer used for the previous token
    moe_next_layer  what the next layer's router says of this layer's rows
    m2r2_moe        what the router `ahead` layers further says of this layer's rows, after a trained low-rank
                    change that makes them resemble the rows it will see: M2R2's accelerated residual, arXiv
                    2502.02040

The rows themselves always take the experts that the model's own router chooses, so the output never changes.

A worked token on 6 layers of 8 experts, 2 per token, with room for 24 experts in all:

    layer 0    the router chooses experts 1 and 5; 1 is in the store, 5 is not: its load is demanded
    guess      the routers of layers 1 and 2 name (1, 0), (1, 3), (2, 2), (2, 7); those that are missing are
               queued after expert 5
    wait       expert 1 computes its part while 5 is read; the rest of the read is counted as stall
    layer 1    the router chooses 0 and 6: 0 has arrived, 6 was not guessed, and its load is demanded now

Shapes: R rows, d width, r rank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from bench.errors import UserError
from bench.records.model import Generation, PhaseName
from bench.runtime.decoder import Decoder
from bench.runtime.experts.fast_store import FastStore, StoreCounts
from bench.runtime.experts.placement import mixtures_of, slow_memory, with_store
from bench.runtime.experts.prediction import LaterRouter, OnDemand, Predictor, PreviousToken
from bench.runtime.sampling import Sampler
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, Clock, Lossless, ModuleTrainer, Traits
from methods.expert_loading.changes import stored_changes


class ExpertLoading(Lossless, ABC):
    """Plain decoding with a fast store of experts.

    Args:
        slots: Experts in the fast store, of all layers together; None takes half of the model's.
        megabytes_per_s: Rate at which experts are read from slow memory.
    """

    traits = Traits(needs_experts=True)

    def __init__(self, *, slots: int | None, megabytes_per_s: float) -> None:
        if slots is not None and slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        if megabytes_per_s <= 0:
            raise ValueError(f"megabytes_per_s must be above 0, got {megabytes_per_s}")
        self._slots, self._bytes_per_s = slots, megabytes_per_s * 1e6

    def attach(self, decoder: Decoder) -> None:
        """Write the experts to slow memory: a file, or for a GPU pinned memory of the host.

        Raises:
            UserError: If the model has no mixtures of experts.
        """
        every = sum(moe.config.experts for moe in mixtures_of(decoder).values())
        slots = max(1, every // 2) if self._slots is None else self._slots
        self._store = FastStore(slow_memory(decoder, self._bytes_per_s), slots)
        self._plain = Autoregressive()
        self._plain.attach(with_store(decoder, self._store, self._predictor(decoder)))

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        """See `methods.core.base.Method`; the counts are those of decoding, without the prefill."""
        watch = _Watch(clock, self._store)
        with self._store:
            made = self._plain.generate(prompt_ids, budget, sampler, watch)
        return replace(made, counts=watch.counts())

    @abstractmethod
    def _predictor(self, decoder: Decoder) -> Predictor:
        """What guesses the experts of later layers of this model."""


class _Watch:
    """A clock that also notes what the store had done when decoding started."""

    def __init__(self, clock: Clock, store: FastStore) -> None:
        self._clock, self._store, self._before = clock, store, StoreCounts()

    def phase(self, name: PhaseName) -> AbstractContextManager[None]:
        return self._clock.phase(name)

    def first_token(self) -> None:
        self._before = replace(self._store.counts)
        self._clock.first_token()

    def counts(self) -> dict[str, int]:
        """By the names that `bench.metrics.experts` reads."""
        before, now = self._before, self._store.counts
        loads = now.loads - before.loads
        return {
            "expert_slots": self._store.capacity,
            "experts_in_all": self._store.memory.count,
            "experts_needed": now.needed - before.needed,
            "experts_hit": now.hits - before.hits,
            "experts_late": now.late - before.late,
            "experts_loaded": loads,
            "experts_wasted": now.wasted - before.wasted,
            "expert_bytes": loads * self._store.memory.expert_bytes,
            "expert_stall_us": round(1e6 * (now.stall_s - before.stall_s)),
        }


class OnDemandExperts(ExpertLoading):
    """Loads an expert when a router has chosen it, and evicts the least recently used."""

    def _predictor(self, decoder: Decoder) -> Predictor:
        return OnDemand()


class PreviousExperts(ExpertLoading):
    """Loads ahead what the next layer used for the previous token."""

    def _predictor(self, decoder: Decoder) -> Predictor:
        return PreviousToken(sorted(mixtures_of(decoder)))


class NextLayerExperts(ExpertLoading):
    """Loads ahead what the next layer's router says of the present layer's rows.

    Args:
        slots: See `ExpertLoading`.
        megabytes_per_s: See `ExpertLoading`.
        candidates: Experts to load ahead for each row (k'); None takes as many as a row uses.
    """

    def __init__(self, *, slots: int | None, megabytes_per_s: float, candidates: int | None) -> None:
        super().__init__(slots=slots, megabytes_per_s=megabytes_per_s)
        self._candidates = _at_least_one(candidates)

    def _predictor(self, decoder: Decoder) -> Predictor:
        count = _candidates(self._candidates, decoder)
        return LaterRouter(mixtures_of(decoder), decoder.config.norm_eps, ahead=1, experts=count)


class AcceleratedExperts(ExpertLoading):
    """Loads ahead what the router of a later layer says of the present rows, after a trained change.

    Args:
        weights: Folder of the trained changes, or None to train them.
        slots: See `ExpertLoading`.
        megabytes_per_s: See `ExpertLoading`.
        candidates: See `NextLayerExperts`.
        ahead: Layers between the present one and the one predicted; None takes what the weights were trained
            for, or 2.
        rank: Rank of new changes (r).
    """

    name = "m2r2_moe"
    traits = Traits(is_reimplementation=True, needs_experts=True)

    def __init__(
        self,
        *,
        weights: str | None,
        slots: int | None,
        megabytes_per_s: float,
        candidates: int | None,
        ahead: int | None,
        rank: int,
    ) -> None:
        super().__init__(slots=slots, megabytes_per_s=megabytes_per_s)
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self._weights = None if weights is None else Path(weights)
        self._candidates, self._ahead, self._rank = _at_least_one(candidates), _at_least_one(ahead), rank

    def _predictor(self, decoder: Decoder) -> Predictor:
        mixtures = mixtures_of(decoder)  # a model without experts is refused before its weights are missed
        if self._weights is None:
            raise UserError(
                "m2r2_moe needs trained changes of the residual and method.weights is not set",
                "set method.weights to their folder, or train them: python -m bench.train method=m2r2_moe",
            )
        stored = stored_changes(self._weights, self.name, sorted(mixtures), decoder)
        if self._ahead not in (None, stored.ahead):
            raise UserError(
                f"the changes in {self._weights} were trained for ahead={stored.ahead}, not {self._ahead}",
                "leave method.ahead null, or train others",
            )
        count = _candidates(self._candidates, decoder)
        eps = decoder.config.norm_eps
        return LaterRouter(mixtures, eps, ahead=stored.ahead, experts=count, maps=stored.maps)

    def trainer(self) -> ModuleTrainer:
        """See `methods.core.base.Trainable`."""
        from methods.expert_loading.module import ExpertTrainer

        return ExpertTrainer(self.name, 2 if self._ahead is None else self._ahead, self._rank)


def _at_least_one(number: int | None) -> int | None:
    if number is not None and number < 1:
        raise ValueError(f"candidates and ahead must be at least 1, got {number}")
    return number


def _candidates(configured: int | None, decoder: Decoder) -> int:
    """Experts to name for each row: at most as many as a layer has."""
    config = next(iter(mixtures_of(decoder).values())).config
    return min(config.experts, configured or config.top_k)
