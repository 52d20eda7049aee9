"""KnapSpec: which attention and MLP sub-layers to skip, as a knapsack problem, arXiv 2602.20217 (ICML 2026).

Every attention and every MLP of the target is an item. Its weight is what one row costs in it, which grows
with the text for attention and not for MLPs, rounded to whole multiples of the cheaper of the two. A dynamic
programme finds, for every total weight left out, the sub-layers whose omission keeps the rows of the newest
tokens closest in cosine to the full model's (`methods.skipping.skip_table`). Of these sets and all draft
lengths up to D, the pair with the most expected tokens per time drafts until the next choice:

    TPT(S, g) = (1 + a + .. + a ** g) / (g * t_draft(S) + t_target)

where a is the share of the newest tokens after which the set predicts what the target does. The draft also
stops after a token of low confidence.

Read: the authors' code, and summaries of the paper by others; not the paper's text. Differs from their code:
- a choice looks at the newest `window` tokens of the text, the prompt's too; there at those of the last five
  rounds before a choice. So the first set is chosen before the first draft, not after six rounds;
- the draft length g that goes with the set is used, as summaries of the paper say; their code drafts up to D
  tokens whatever g came out. At g = 0 the target decodes plainly until the next choice;
- the cost of the head counts, once per drafted token and once per round;
- costs are the numbers that a row reads, of weights, keys and values, so that a run can be repeated;
  ``costs=measured`` takes times of this machine, as there, measured once when the model is loaded;
- the full model's rows are computed again, as the version that leaves nothing out;
- a version that skips less than half of all weight counts, also none: if no other is left, nothing is
  drafted;
- the confidence is that of the likeliest token at temperature 1; there, of the drafted token;
- sampled drafts are accepted by speculative sampling; there, only where they equal a sample of the target;
- no set is chosen when there are too few free slots.

Shapes: T tokens of the window, B sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.runtime.decoder import NO_SKIP, Decoder, Skip
from bench.runtime.sublayer_costs import SublayerCosts, measure_sublayers
from methods.skipping.chosen_skips import MOST_ROWS, ChosenSkips, Rerun
from methods.skipping.skip_table import fill_table
from methods.skipping.sublayer_skip import skip_of

COSTS = ("weights", "measured")
MOST_WEIGHT = 5
"""Largest weight of an item; more would only enlarge the table (as in the authors' code)."""


class KnapSpec(ChosenSkips):
    """Drafting with sub-layers skipped, the set and the draft length with the most tokens per time.

    Args:
        window: Newest tokens that a choice looks at (T).
        interval: Rounds from one choice to the next.
        least_similarity: Sets whose rows are less similar to the full model's at any depth are dropped.
        costs: ``weights``: numbers that a row reads; ``measured``: seconds of this machine.
        draft_length: Most tokens drafted per round (D).
        threshold: Drafting stops after a token whose probability is below this.
        draft_vocab: How many of the most frequent tokens may be drafted; None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "knapspec"
    least_layers = 3

    def __init__(
        self,
        *,
        window: int,
        interval: int,
        least_similarity: float,
        costs: str,
        draft_length: int,
        threshold: float,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        super().__init__(draft_length, threshold, window, draft_vocab, frequent_tokens)
        if interval < 1:
            raise ValueError(f"interval must be at least 1, got {interval}")
        if not -1 <= least_similarity <= 1:
            raise ValueError(f"least_similarity must lie in [-1, 1], got {least_similarity}")
        if costs not in COSTS:
            raise ValueError(f"costs must be one of {', '.join(COSTS)}, got {costs!r}")
        self._interval, self._least, self._are_measured = interval, least_similarity, costs == "measured"

    def attach(self, decoder: Decoder) -> None:
        super().attach(decoder)
        cost_of = measure_sublayers if self._are_measured else SublayerCosts.of_weights
        self._costs = cost_of(decoder, self._head)
        halves = [(Skip(mlp=frozenset([n])), Skip(attention=frozenset([n]))) for n in range(decoder.depth)]
        self._others = [skip for pair in halves for skip in pair]  # what item 2 l, or 2 l + 1, runs without

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self.skip, self._length = NO_SKIP, 0  # nothing is drafted until a set is chosen
        return super().prefill(prompt_ids)

    def is_due(self) -> bool:
        return self._rounds % self._interval == 0

    def choose(self, rerun: Rerun) -> Skip:
        depth, length = self._decoder.depth, self._decoder.cache.length
        costs = RoundCosts(self._costs.attention_at(length), self._costs.mlp, self._costs.head, depth)
        pair = costs.weights()
        weights = [None, None, *pair * (depth - 2), None, None]
        table = fill_table(
            rerun.start,
            weights,
            lambda item, rows: rerun.run(rows, item // 2, self._others[item]),
            budget=sum(pair) * depth // 2,
            least=self._least,
        )
        skips = [halves_of(items) for items in table.skipped]
        rates = self._agreements(table.states)
        best, self._length = costs.choose(skips, rates, self._limit)
        return skips[best]

    def _agreements(self, states: Tensor) -> list[float]:
        """Share of the window's tokens [T] after which each set's best token is the full model's, B numbers.

        Args:
            states: Rows after the last layer, shape [B, T, d]; the first are the full model's.
        """
        rows = torch.split(states.flatten(0, 1), MOST_ROWS)
        best = torch.cat([self._head(part).argmax(dim=-1) for part in rows]).view(states.shape[:2])
        shares: list[float] = (best == best[:1]).float().mean(dim=-1).tolist()
        return shares


def halves_of(items: Sequence[int]) -> Skip:
    """The set of these items: item 2 l is the attention of layer l, item 2 l + 1 its MLP."""
    return skip_of(
        (item // 2 for item in items if item % 2 == 0), (item // 2 for item in items if item % 2 == 1)
    )


@dataclass(frozen=True, slots=True)
class RoundCosts:
    """What a round costs, and which draft it makes the best.

    Args:
        attention: Cost of one row in one attention sub-layer, at the present length of the text.
        mlp: In one MLP sub-layer.
        head: In the head.
        depth: Layers of the target (L).
    """

    attention: float
    mlp: float
    head: float
    depth: int

    def weights(self) -> tuple[int, int]:
        """Weights of an attention and of an MLP: multiples of the cheaper one, at most `MOST_WEIGHT`."""
        unit = max(min(self.attention, self.mlp), 1e-12)
        attention, mlp = (min(MOST_WEIGHT, max(1, round(cost / unit))) for cost in (self.attention, self.mlp))
        return attention, mlp

    def tokens_per_time(self, skip: Skip, rate: float, length: int) -> float:
        """Expected tokens per time of rounds that draft `length` tokens, each accepted with chance `rate`."""
        tokens = sum(rate**n for n in range(length + 1))
        drafting = (self.depth - len(skip.attention)) * self.attention + self.head
        drafting += (self.depth - len(skip.mlp)) * self.mlp
        target = self.depth * (self.attention + self.mlp) + self.head
        return tokens / (length * drafting + target)

    def choose(self, skips: Sequence[Skip], rates: Sequence[float], most: int) -> tuple[int, int]:
        """Index of the set and draft length, 0 to `most`, with the most tokens per time.

        The first set leaves nothing out: it never drafts, and stands for plain decoding.
        """
        pairs = [(0, 0), *((n, length) for n in range(1, len(skips)) for length in range(1, most + 1))]
        return max(pairs, key=lambda pair: self.tokens_per_time(skips[pair[0]], rates[pair[0]], pair[1]))
