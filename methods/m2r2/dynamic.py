"""M2R2's dynamic compute (arXiv 2502.02040): leave early and never verify. LOSSY.

A token whose accelerated row passes the gate is emitted at once, and its slow row waits at the exit. The
first token that does not pass takes all waiting rows through the remaining layers with it, in one pass, so
the keys and values of every layer are exactly the target's for the text that was emitted. With a gate that
never opens the output is the target's own.

A `Round` is one pass of the deep layers. The tokens that left early since the previous one count as drafted
and accepted, although nothing checked them: hence LOSSY. Rows that still wait at the end are dropped, so the
cache of the deep layers may end shorter than that of the shallow ones.

Shapes: d width, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bench.records.model import Generation, Round
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from methods.core.base import Budget, Clock


class EarlyExit(Protocol):
    """What the loop needs of the accelerated stream; `methods.m2r2.draft.M2R2` implements it."""

    @property
    def exit_layer(self) -> int:
        """Layer that accelerated rows leave."""

    def accelerate(self, token: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Slow row [1, d] of a token and its accelerated rows [n, d]."""

    def is_sure(self, logits: Tensor, rows: Tensor) -> bool:
        """Whether a token with these logits may leave."""


def generate_early(
    stream: EarlyExit,
    decoder: Decoder,
    prompt_ids: Tensor,
    budget: Budget,
    sampler: Sampler,
    clock: Clock,
) -> Generation:
    """Decode one answer, leaving early wherever the gate opens; see `methods.core.base.Method.generate`."""
    token = sampler.pick(decoder.prefill(prompt_ids))  # [1]
    ids = token.tolist()
    clock.first_token()
    rounds: list[Round] = []
    waiting: list[Tensor] = []
    while not budget.is_over(ids, 1):
        position = prompt_ids.numel() + len(ids) - 1
        with clock.phase("draft"):
            slow, rows = stream.accelerate(token, position)
            waiting.append(slow)
            logits = decoder.head(rows[-1:])
            is_early = stream.is_sure(logits, rows)
        if not is_early:
            with clock.phase("verify"):
                logits = catch_up(decoder, waiting, position, stream.exit_layer)
            rounds.append(_round(len(waiting) - 1, 1, stream.exit_layer))
            waiting = []
        token = sampler.pick(logits)
        ids += token.tolist()
    if waiting:
        rounds.append(_round(len(waiting), 0, stream.exit_layer))
    return Generation(tuple(ids), tuple(rounds))


def catch_up(decoder: Decoder, waiting: list[Tensor], position: int, exit_layer: int) -> Tensor:
    """Run the waiting rows through the deep layers; returns the logits [1, V] of the last, at `position`.

    Raises:
        RuntimeError: If the rows do not continue the deep layers' cache without a gap.
    """
    first = position + 1 - len(waiting)
    if decoder.cache.lengths[exit_layer] != first:
        raise RuntimeError(f"deep layers hold {decoder.cache.lengths[exit_layer]} rows, the next is {first}")
    place = decoder.placement.chain(first, len(waiting))
    return decoder.head(decoder.run_layers(torch.cat(waiting), place, exit_layer)[-1:])


def _round(left_early: int, from_target: int, exit_layer: int) -> Round:
    """A pass of the deep layers that emitted one token of its own, or at the end none."""
    return Round(left_early, left_early, left_early + from_target, left_early, "exit", exit_layer)
