"""KnapSpec: which sub-layers the draft leaves out, as a knapsack problem, arXiv 2602.20217 (ICML 2026).

Every attention and every MLP is an item. Its weight is the time it takes, in whole multiples of the cheaper
kind's; an attention's grows with the text. A dynamic programme walks through the sub-layers: state j is the
most similar row, by cosine to the target's own, after leaving out sub-layers of weight j, on the newest T
tokens side by side. States below a least similarity are dropped. Of the states after the last layer, each a
draft model, the one with the most tokens per time is taken: its acceptance is estimated by how often its own
next token is the target's, and the draft length by trying all.

Written from the paper's abstract and the authors' code (github.com/kaist-flexml-lab/knapspec), whose defaults
are taken. Differs from it in:
- costs are the numbers read, of weights and of keys and values, so that a run can be repeated; ``measured``
  takes this machine's times, as there;
- the newest T tokens are run anew from the embeddings (there, the hidden rows of five rounds are collected);
- the first round drafts nothing (there, with the whole model);
- the draft may be as long as `draft_length` in the objective (there, 17 tokens);
- the draft stops after a token with a top probability below the threshold, under sampling too (there, by the
  probability of the drawn token, which biases sampled output).

Shapes: F states of a sub-layer, T tokens, d width, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.runtime.costs import SublayerCosts, measure_sublayers
from bench.runtime.decoder import Decoder, Skip
from methods.core.chain import Draft
from methods.skipping.branches import Branches, ContextSkip, similarity
from methods.skipping.sublayer_skip import skip_of

COSTS = ("weights", "measured")
HEAVIEST = 5
"""Most weight of the dearer kind of sub-layer, in multiples of the cheaper kind's."""


class KnapSpec(ContextSkip):
    """Sub-layers left out by a knapsack over their costs.

    Args:
        window: Newest tokens that choices are made on (T).
        similarity: Least mean cosine similarity of a state.
        costs: ``weights`` or ``measured``, see the module's docstring.
        draft_length: See `ContextSkip`, as for the others; the objective compares lengths up to it.
        threshold: Drafting stops after a token with a top probability below this.
        interval: Rounds between two choices.
        draft_vocab: How many of the most frequent tokens may be drafted; None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "knapspec"

    def __init__(
        self,
        *,
        window: int,
        similarity: float,
        costs: str,
        draft_length: int,
        threshold: float,
        interval: int,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        super().__init__(
            draft_length=draft_length,
            threshold=threshold,
            interval=interval,
            draft_vocab=draft_vocab,
            frequent_tokens=frequent_tokens,
        )
        if window < 1 or not -1 <= similarity < 1:
            raise ValueError(f"need window >= 1 and similarity in [-1, 1), got {window} and {similarity}")
        if costs not in COSTS:
            raise ValueError(f"costs must be one of {', '.join(COSTS)}, got {costs!r}")
        self._window, self._least, self._are_measured = window, similarity, costs == "measured"

    def attach(self, decoder: Decoder) -> None:
        super().attach(decoder)
        self._costs = measure_sublayers(decoder) if self._are_measured else SublayerCosts.of_weights(decoder)

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._recent = prompt_ids[-self._window :]
        return super().prefill(prompt_ids)

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        self._verified = torch.cat([root, draft.tokens])
        return super().verify(root, draft, base)

    def commit(self, emitted: Tensor, base: int) -> None:
        """Note the committed tokens."""
        self._recent = torch.cat([self._recent, self._verified[: emitted.numel()]])[-self._window :]

    def choose(self) -> Skip | None:
        decoder = self._decoder
        knapsack = Knapsack.of(decoder.depth, self._costs, decoder.cache.length)
        branches = Branches(decoder, self._recent.numel())
        if decoder.depth < 3 or not branches.has_room(knapsack.budget + 1):
            return None
        states = {0: branches.run(decoder.embed(self._recent), 0)}  # the first layer always runs
        routes: list[dict[int, Move]] = []
        for place in range(2, 2 * decoder.depth):
            states, moves = self._step(states, place, knapsack, branches)
            routes.append(moves)
        branches.end()
        return self._fastest(states, routes, knapsack)

    def _step(
        self, states: Mapping[int, Tensor], place: int, knapsack: Knapsack, branches: Branches
    ) -> tuple[dict[int, Tensor], dict[int, Move]]:
        """The states after one more sub-layer, and how each came about; the host waits once."""
        layer, is_mlp = divmod(place, 2)
        weights, rows = sorted(states), torch.cat([states[weight] for weight in sorted(states)])
        alone = Skip(attention=frozenset([layer])) if is_mlp else Skip(mlp=frozenset([layer]))
        ran = branches.run(rows, layer, alone)
        shape, goal = (len(weights), -1, rows.shape[-1]), ran[: self._recent.numel()]
        shares = torch.stack([similarity(part.view(shape), goal) for part in (ran, rows)]).tolist()
        is_last = layer == self._decoder.depth - 1  # the last layer always runs
        moves = knapsack.moves(weights, shares[0], None if is_last else shares[1], place, self._least)
        kept = {False: ran.view(shape), True: rows.view(shape)}
        return {weight: kept[move.skips][weights.index(move.before)] for weight, move in moves.items()}, moves

    def _fastest(
        self, states: Mapping[int, Tensor], routes: Sequence[Mapping[int, Move]], knapsack: Knapsack
    ) -> Skip | None:
        """What the draft model with the most tokens per time leaves out; None if there is no such model."""
        logits = self._decoder.head(torch.cat(list(states.values())))
        best = logits.argmax(dim=-1).view(len(states), -1)
        accepted = (best == best[:1]).float().mean(dim=-1).tolist()  # state 0, the target, is the first
        drafts = {weight: _route(routes, weight) for weight in states if weight}
        rates = dict(zip(states, accepted, strict=True))

        def speed(weight: int) -> float:
            return knapsack.most_tokens_per_time(rates[weight], drafts[weight], self._draft_length)

        return drafts[max(drafts, key=speed)] if drafts else None


@dataclass(frozen=True, slots=True)
class Move:
    """How a state came about.

    Args:
        before: Weight of the state that it came from.
        skips: Whether the sub-layer was left out.
        similarity: Of its rows with the target's.
    """

    before: int
    skips: bool
    similarity: float


@dataclass(frozen=True, slots=True)
class Knapsack:
    """Costs of the sub-layers of a model at one length of the text.

    Args:
        depth: Layers (L).
        attention: Cost of an attention.
        mlp: Cost of an MLP.
    """

    depth: int
    attention: float
    mlp: float

    @classmethod
    def of(cls, depth: int, costs: SublayerCosts, context: int) -> Knapsack:
        return cls(depth, costs.attention_at(context), costs.mlp)

    def weight(self, place: int) -> int:
        """Weight of the sub-layer number `place`: attentions are even, MLPs odd."""
        own, other = (self.mlp, self.attention) if place % 2 else (self.attention, self.mlp)
        return max(1, min(HEAVIEST, round(own / other))) if other else HEAVIEST

    @property
    def budget(self) -> int:
        """Most weight that may be left out: half of all."""
        return (self.weight(0) + self.weight(1)) * self.depth // 2

    def moves(
        self,
        weights: Sequence[int],
        run: Sequence[float],
        left: Sequence[float] | None,
        place: int,
        least: float,
    ) -> dict[int, Move]:
        """The best move to each weight that can be reached, by weight.

        Args:
            weights: Of the states before the sub-layer.
            run: Similarity of each with the target after the sub-layer.
            left: Likewise without it; None if it must run.
            place: Number of the sub-layer.
            least: Moves of less similarity are dropped.
        """
        moves = [(weight, Move(weight, False, share)) for weight, share in zip(weights, run, strict=True)]
        if left is not None:
            own = self.weight(place)
            moves += [
                (weight + own, Move(weight, True, share)) for weight, share in zip(weights, left, strict=True)
            ]
        best: dict[int, Move] = {}
        for weight, move in moves:
            is_allowed = weight <= self.budget and (move.similarity >= least or weight == 0)
            if is_allowed and (weight not in best or move.similarity > best[weight].similarity):
                best[weight] = move
        return dict(sorted(best.items()))

    def most_tokens_per_time(self, acceptance: float, skip: Skip, longest: int) -> float:
        """Tokens per cost of a round, for the best of all draft lengths.

        A draft of n tokens of acceptance a gives 1 + a + ... + a^n tokens; each of them costs the sub-layers
        that are left, and the verification costs all.
        """
        attentions, mlps = self.depth - len(skip.attention), self.depth - len(skip.mlp)
        drafted = self.attention * attentions + self.mlp * mlps
        whole = self.depth * (self.attention + self.mlp)
        tokens, best = 1.0, 0.0
        for length in range(longest + 1):
            best = max(best, tokens / (whole + length * drafted))
            tokens += acceptance ** (length + 1)
        return best


def _route(routes: Sequence[Mapping[int, Move]], weight: int) -> Skip:
    """What is left out on the way to the last state of a weight; routes begin at sub-layer 2."""
    attention, mlp = list[int](), list[int]()
    for place in range(len(routes) - 1, -1, -1):
        move = routes[place][weight]
        if move.skips:
            (mlp if place % 2 else attention).append(1 + place // 2)
        weight = move.before
    return skip_of(attention, mlp)
