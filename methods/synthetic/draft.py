"""Rounds with a given acceptance and a real cost: how fast would a method be if it accepted this much?

COST ONLY. The draft and verification work of a schedule (`methods.synthetic.draft_cost`) is really run, but
how many drafted tokens count as accepted is random, position by position, with the given rates. The emitted
ids are the target's choices after meaningless tokens: they mean nothing, and the acceptance is an input, not
a result. SGLang and vLLM have the same kind of tool, as "simulated" and "synthetic" acceptance.

Differs from the simulations in those engines in:
- rates are given per position, each conditional on acceptance of the positions before it;
- drafts may stop early, as by a confidence threshold, or not begin, as without a match;
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
from methods.core.trees import CPU, Tree, compact
from methods.synthetic.draft_cost import DraftCost, Schedule


class Synthetic:
    """Given acceptance, real cost.

    Args:
        acceptance: Probability that position 1, 2, .. K is accepted if those before it are.
        schedule: The work of a round.
        stops: Probability that drafting stops after 0, 1, .. K - 1 positions if it has come that far; None
            always drafts K.
        draft_vocab: Rows of the LM head that drafting reads (N); None is all. Which ones makes no difference.
    """

    def __init__(
        self,
        *,
        acceptance: Sequence[float],
        schedule: Schedule,
        stops: Sequence[float] | None = None,
        draft_vocab: int | None = None,
    ) -> None:
        stops = () if stops is None else stops
        for name, rates in (("acceptance", acceptance), ("stops", stops)):
            if not all(0 <= rate <= 1 for rate in rates):
                raise ValueError(f"{name} must hold probabilities in [0, 1], got {list(rates)}")
        if len(stops) not in (0, len(acceptance)):
            raise ValueError(
                f"stops must hold {len(acceptance)} rates, as acceptance does, got {list(stops)}"
            )
        schedule.tree(len(acceptance), CPU)  # raises if the rates do not fit the nodes
        self._rates, self._stops = tuple(acceptance), tuple(stops)
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
            drafted = self._drafted(chance)
            tree = self._tree.fit(min(budget.room(len(ids)), drafted), slots)
            with clock.phase("draft"):
                tokens = cost.draft(root, base, tree)
            with clock.phase("verify"):
                picks = sampler.pick(cost.verify(tokens, base, tree)).tolist()
            with clock.phase("commit"):
                accepted = self._accepted(chance, tree.depth)
                path = (0,) if self.traits.several_tokens_per_row else tree.first_path(accepted)
                emitted = [picks[node] for node in path]
                emitted += emitted[-1:] * (accepted + 1 - len(emitted))
                emitted = _without_ends(emitted, budget)
                ids += emitted
                compact(decoder.cache, base, path)
                base += len(path)
                root = upload(torch.tensor(emitted[-1:]), root.device)
            rounds.append(self._round(tree, accepted, drafted))
        return Generation(tuple(ids), tuple(rounds))

    def _drafted(self, chance: Random) -> int:
        """After how many positions the draft stops this time."""
        for position, rate in enumerate(self._stops):
            if chance.random() < rate:
                return position
        return len(self._rates)

    def _accepted(self, chance: Random, depth: int) -> int:
        """How many of `depth` positions are accepted this time."""
        for position, rate in enumerate(self._rates[:depth]):
            if chance.random() >= rate:
                return position
        return depth

    def _round(self, tree: Tree, accepted: int, drafted: int) -> Round:
        is_cut = tree.depth < drafted or (drafted == self._tree.depth and tree.size < self._tree.size)
        stop = "budget" if is_cut else "length" if drafted == self._tree.depth else "confidence"
        exit_layer = self._cost.exit_layer if self._schedule.resume else None
        return Round(tree.size - 1, accepted, accepted + 1, tree.depth, stop, exit_layer)


def _without_ends(ids: list[int], budget: Budget) -> list[int]:
    """The ids with every end token replaced by the lowest id that is not an end token."""
    ends = budget.eos_ids
    ordinary = next(token for token in range(len(ends) + 1) if token not in ends)
    return [ordinary if token in ends else token for token in ids]
