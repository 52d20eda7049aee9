"""Rounds with a given acceptance and a real cost: how fast would a method be if it accepted this much?

COST ONLY. The draft and verification work of a schedule (`methods.synthetic.draft_cost`) is really run, but
how many drafted tokens count as accepted is random, position by position, with the given rates. The emitted
ids are the target's choices after meaningless tokens: they mean nothing, and the acceptance is an input, not
a result. SGLang and vLLM have the same kind of tool, as "simulated" and "synthetic" acceptance.

Differs from the simulations in those engines in:
- rates are given per position, each conditional on acceptance of the positions before it;
- every draft cost is a mix of operations on the target's own layers, so no drafter's weights are needed;
- end tokens are replaced, so that every answer takes the whole budget.

Shapes: K draft positions, N verified rows with the root.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from bench.records.model import Generation, Round
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from bench.runtime.transfer import upload
from methods.core.base import Budget, Clock, Exactness, Traits
from methods.core.trees import CPU, compact
from methods.synthetic.draft_cost import DraftCost, Schedule


class Synthetic:
    """Given acceptance, real cost.

    Args:
        acceptance: Probability that position 1, 2, .. K is accepted if those before it are.
        schedule: The work of a round.
        draft_vocab: Rows of the LM head that drafting reads (N); None is all. Which ones makes no difference.
    """

    def __init__(
        self, *, acceptance: Sequence[float], schedule: Schedule, draft_vocab: int | None = None
    ) -> None:
        if not all(0 <= rate <= 1 for rate in acceptance):
            raise ValueError(f"acceptance must hold probabilities in [0, 1], got {list(acceptance)}")
        schedule.tree(len(acceptance), CPU)  # raises if the rates do not fit the nodes
        self._rates = tuple(acceptance)
        if draft_vocab is not None and draft_vocab < 1:
            raise ValueError(f"draft_vocab must be at least 1, or null for all tokens, got {draft_vocab}")
        self._schedule, self._draft_vocab = schedule, draft_vocab
        self.traits = Traits(
            is_cost_only=True,
            several_tokens_per_row=schedule.verifies == "root",
            draft_cost=schedule.name,
        )

    def attach(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._cost = DraftCost(self._schedule, decoder, self._draft_vocab)
        self._tree = self._schedule.tree(len(self._rates), decoder.device)

    def exactness(self, sampler: Sampler) -> Exactness:
        return Exactness.LOSSY

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        decoder, cost = self._decoder, self._cost
        chance = Random(sampler.generator.initial_seed())
        base = prompt_ids.numel()
        root = sampler.pick(decoder.prefill(prompt_ids))  # [1]
        ids = _without_ends(root.tolist(), budget)
        clock.first_token()
        rounds: list[Round] = []
        while not budget.is_over(ids, 1):
            slots = (decoder.capacity - base) // cost.rows_per_node
            tree = self._tree.fit(budget.room(len(ids)), slots)
            with clock.phase("draft"):
                tokens = cost.draft(root, base, tree)
            with clock.phase("verify"):
                picks = sampler.pick(cost.verify(tokens, base, tree)).tolist()
            with clock.phase("commit"):
                accepted = self._draw(chance, tree.depth)
                path = (0,) if self.traits.several_tokens_per_row else tree.first_path(accepted)
                emitted = [picks[node] for node in path]
                emitted += emitted[-1:] * (accepted + 1 - len(emitted))
                emitted = _without_ends(emitted, budget)
                ids += emitted
                compact(decoder.cache, base, path)
                base += len(path)
                root = upload(torch.tensor(emitted[-1:]), root.device)
            rounds.append(self._round(tree.size - 1, accepted, tree.depth))
        return Generation(tuple(ids), tuple(rounds))

    def _draw(self, chance: Random, depth: int) -> int:
        """How many of `depth` positions are accepted this time."""
        for position, rate in enumerate(self._rates[:depth]):
            if chance.random() >= rate:
                return position
        return depth

    def _round(self, drafted: int, accepted: int, depth: int) -> Round:
        stop = "length" if drafted == self._tree.size - 1 else "budget"
        exit_layer = self._cost.exit_layer if self._schedule.resume else None
        return Round(drafted, accepted, accepted + 1, depth, stop, exit_layer)


def _without_ends(ids: list[int], budget: Budget) -> list[int]:
    """The ids with every end token replaced by the lowest id that is not an end token."""
    ends = budget.eos_ids
    ordinary = next(token for token in range(len(ends) + 1) if token not in ends)
    return [ordinary if token in ends else token for token in ids]
