"""Guesses of later layers' experts, beside what the routers then chose, over tokens that the model decodes.

The model decodes greedily with all experts in memory. Rows of the prompt are left out, and so is each
answer's first decoded row, which has no previous one to guess from.

Shapes: T decoded rows, d width, k experts per row, n experts that a guess names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.routing.records import CHANGE, PREVIOUS, ROUTER, Guesses
from bench.runtime.decoder import Decoder
from bench.runtime.experts.placement import mixtures_of, with_experts
from bench.runtime.experts.prediction import LowRankMap
from bench.runtime.linear import rms_norm
from bench.runtime.moe import Expert, Experts, Moe
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, NoClock

Changes = Mapping[tuple[int, int], LowRankMap]
"""Trained changes of the rows by present and later layer."""


@dataclass(slots=True)
class Watched:
    """The experts of a layer, in memory, that keeps what every pass chose and the rows it chose for."""

    experts: Experts
    chosen: list[tuple[int, ...]] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)

    def take(self, chosen: Sequence[int], hidden: Tensor) -> Iterator[tuple[int, Expert]]:
        """See `bench.runtime.moe.Experts`."""
        self.chosen.append(tuple(chosen))
        self.hidden.append(hidden.clone())
        return self.experts.take(chosen, hidden)

    @property
    def parameters(self) -> int:
        """See `bench.runtime.moe.Experts`."""
        return self.experts.parameters


@dataclass(frozen=True, slots=True)
class Choices:
    """What one layer's router chose for the decoded rows of an answer, and the rows entering its experts."""

    chosen: Tensor  # [T, k]
    hidden: Tensor  # [T, d]


@torch.inference_mode()
def decoded(decoder: Decoder, prompt: Tensor, tokens: int) -> dict[int, Choices]:
    """By layer, what the routers chose while an answer of at most so many tokens was decoded."""
    watched = {layer: Watched(moe.experts) for layer, moe in mixtures_of(decoder).items()}
    method = Autoregressive()
    method.attach(with_experts(decoder, watched))
    budget = Budget(min(tokens, decoder.capacity - prompt.numel()), frozenset())
    made = method.generate(prompt, budget, Sampler(Sampling(), decoder.device, 0), NoClock())
    rows = len(made.rounds)
    return {
        layer: Choices(torch.tensor(seen.chosen[-rows:]), torch.cat(seen.hidden[-rows:]))
        for layer, seen in watched.items()
    }


@torch.inference_mode()
def guesses_of(
    decoder: Decoder, answers: Sequence[Mapping[int, Choices]], changes: Changes, candidates: int
) -> list[Guesses]:
    """Every way to guess, for every layer with experts and every later one, summed over answers.

    Args:
        decoder: The model.
        answers: What `decoded` says of each.
        changes: Pairs without one are not guessed by a change.
        candidates: Experts that a router names for a row (n).
    """
    mixtures, eps = mixtures_of(decoder), decoder.config.norm_eps
    layers, made = sorted(mixtures), list[Guesses]()
    for layer, later in [(first, second) for first in layers for second in layers if first < second]:
        counts = {ROUTER: 0, PREVIOUS: 0} | ({CHANGE: 0} if (layer, later) in changes else {})
        needed = 0
        for answer in answers:
            rows, chosen = answer[layer].hidden[1:], answer[later].chosen
            truth = chosen[1:]
            needed += truth.numel()
            counts[PREVIOUS] += shared(truth, chosen[:-1])
            counts[ROUTER] += shared(truth, named(mixtures[later], rows, eps, candidates))
            if (layer, later) in changes:
                changed = changes[layer, later](rows)
                counts[CHANGE] += shared(truth, named(mixtures[later], changed, eps, candidates))
        made += [Guesses(guesser, layer, later, needed, count) for guesser, count in counts.items()]
    return made


def named(moe: Moe, rows: Tensor, eps: float, count: int) -> Tensor:
    """The experts that a router finds likeliest for rows [T, d] before its norm, shape [T, n]."""
    return moe.route(rms_norm(rows, moe.norm, eps), count)[1]


def shared(truth: Tensor, guess: Tensor) -> int:
    """How many of the experts [T, k] are among those guessed for the same row [T, n]."""
    return int((truth[:, :, None] == guess[:, None, :].to(truth.device)).any(dim=-1).sum())
