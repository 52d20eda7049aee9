"""ConfLayers: layers that add little confidence are skipped; the set is refined while decoding, 2604.14612.

The target drafts with some of its layers left out, attention and MLP together. A layer's confidence is one
minus the normalised entropy of what its attention adds to a row, read as logits over the row's channels, plus
the same of its MLP, averaged over the newest W tokens. A layer is skipped where its confidence lies below a
local threshold: the mean of its neighbours' confidences minus lambda times their standard deviation. The
neighbourhood is wider in deep layers and where the curve of confidences bends. lambda is adapted until the
share of skipped layers lies in its range (arXiv 2604.14612).

A set drafts for a number of rounds, then it is judged by the tokens it got accepted per round. The best set
so far is remembered and another one is chosen from the confidences of the newest tokens, until a set is good
enough, or so many have been tried that the best one is kept for good. A set that gets less than one token
accepted per round is given up after half of its rounds.

Set, best set, lambda and the number of tries are kept from one prompt to the next: `ConfLayers` learns over a
run. A resumed run begins anew.

Read: the authors' code; not the paper's text. Differs from their code in:
- a draft is a chain, not SWIFT's tree;
- lambda is adapted within a choice, in their steps of 0.05; there by one step per choice, and a set that is
  too small is replaced after every round until it is not;
- the newest tokens are read at their own positions and see the text before them; there they follow the
  prompt directly;
- a neighbourhood does not grow with the number of equal bends at the start of the curve, which is 1 as a
  rule: their factor of 5 is kept;
- keys and values of drafts and choices go to scratch slots; the cache is never copied. No set is chosen when
  there are too few free slots;
- the draft never exceeds the remaining budget; under sampling the chain is sampled and accepted by
  speculative sampling.

Shapes: W tokens of the window, n candidate layers, d width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.runtime.decoder import Decoder, Skip
from methods.skipping.chosen_skips import ChosenSkips, Rerun
from methods.skipping.sublayer_skip import skip_of

Floats = NDArray[np.float64]

STEP = 0.05
"""How far lambda moves at a time."""
MOST_STEPS = 200
"""Steps of lambda within a choice; a range that no lambda reaches ends there."""
NEAREST = 2
"""Width of the smallest neighbourhood."""
WIDEST = 5
"""How much wider it gets, at most, in the deepest layer at the sharpest bend."""


class ConfLayers(ChosenSkips):
    """Drafting with whole layers skipped, chosen by the confidence of what they compute.

    Args:
        window: Newest tokens that confidences are taken from (W), and tokens of an answer before the first.
        skip_ratio: Least share of the candidate layers that is skipped.
        skip_slack: How far above `skip_ratio` the share may lie.
        interval: Rounds after which a set is judged.
        max_iter: After this many sets the best one is kept.
        max_score: A set is kept for good whose share of accepted tokens is above this,
        max_accepted: and whose accepted tokens per round are above this.
        draft_length: Most tokens drafted per round.
        threshold: Drafting stops after a token whose probability is below this.
        draft_vocab: How many of the most frequent tokens may be drafted; None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "conflayers"
    least_layers = 4  # a curve needs two points between the first and the last

    def __init__(
        self,
        *,
        window: int,
        skip_ratio: float,
        skip_slack: float,
        interval: int,
        max_iter: int,
        max_score: float,
        max_accepted: float,
        draft_length: int,
        threshold: float,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        super().__init__(draft_length, threshold, window, draft_vocab, frequent_tokens)
        if not 0 < skip_ratio < 1 or not 0 <= skip_slack < 1:
            raise ValueError(
                f"need 0 < skip_ratio < 1 and 0 <= skip_slack < 1, got {skip_ratio} and {skip_slack}"
            )
        if interval < 1 or max_iter < 1:
            raise ValueError(f"interval and max_iter must be at least 1, got {interval} and {max_iter}")
        self._shares = (skip_ratio, skip_ratio + skip_slack)
        self._interval, self._most_tries = interval, max_iter
        self._good = (max_score, max_accepted)

    def attach(self, decoder: Decoder) -> None:
        super().attach(decoder)
        self._halves = [(skip_of((), (n,)), skip_of((n,), ())) for n in range(decoder.depth)]
        self.reset()

    def reset(self) -> None:
        """Forget what earlier prompts have taught: take every odd layer, and begin the search anew."""
        odd = range(1, self._decoder.depth - 1, 2)
        self.skip = self._best = skip_of(odd, odd)
        self._best_accepted, self._trial = 0.0, Trial()
        self._looseness = 0.0  # lambda
        self._tries, self._is_on, self._is_choice_due = 0, True, False

    def is_searching(self) -> bool:
        return self._is_on

    def is_due(self) -> bool:
        return self._is_choice_due

    def learn(self, accepted: int, drafted: int) -> None:
        """Judge the set that drafts, and note whether another one is to be chosen."""
        answered = len(self._text) - self._prompt
        if not self._is_on or answered <= self._window + 1:
            return
        self._trial.add(accepted, drafted)
        trial = self._trial
        is_hopeless = trial.rounds == self._interval // 2 and trial.accepted < trial.rounds
        if not self._tries or is_hopeless:
            self._is_choice_due = True
        elif trial.rounds >= self._interval:
            self._judge(trial.per_round, trial.share)

    def _judge(self, accepted: float, share: float) -> None:
        max_score, max_accepted = self._good
        if share > max_score and accepted > max_accepted:
            self._is_on = False
            return
        if accepted > self._best_accepted:
            self._best, self._best_accepted = self.skip, accepted
        self._is_choice_due = True

    def choose(self, rerun: Rerun) -> Skip:
        self._is_choice_due, self._trial = False, Trial()
        self._tries += 1
        if self._tries > self._most_tries:
            self._is_on = False
            return self._best
        curve = self._confidences(rerun)[1:-1]  # the first and the last layer always run
        self._looseness, places = unsure_layers(curve, self._shares, self._looseness, self._decoder.depth)
        layers = [1 + place for place in places]
        return skip_of(layers, layers)

    def _confidences(self, rerun: Rerun) -> Floats:
        """Confidence of every layer over the window, L numbers; one host sync."""
        rows, sums = rerun.start[None], []
        for layer, (no_mlp, no_attention) in enumerate(self._halves):
            attended = rerun.run(rows, layer, no_mlp)
            after = rerun.run(attended, layer, no_attention)
            sums.append(confidence(attended - rows) + confidence(after - attended))
            rows = after
        return np.array(torch.stack(sums).tolist())


@dataclass(slots=True)
class Trial:
    """The rounds that one set has drafted for."""

    rounds: int = 0
    accepted: int = 0
    drafted: int = 0

    def add(self, accepted: int, drafted: int) -> None:
        self.rounds += 1
        self.accepted += accepted
        self.drafted += drafted

    @property
    def per_round(self) -> float:
        """Accepted tokens per round."""
        return self.accepted / max(1, self.rounds)

    @property
    def share(self) -> float:
        """Share of the drafted tokens that was accepted."""
        return self.accepted / max(1, self.drafted)


def confidence(added: Tensor) -> Tensor:
    """Mean confidence of what a sub-layer adds to rows, shape [..., d]: 1 if one channel has it all, else
    less, 0 if all are equal. A scalar.
    """
    logs = added.float().log_softmax(dim=-1)
    entropy = -(logs.exp() * logs).sum(dim=-1)
    return 1 - entropy.mean() / math.log(added.shape[-1])


def unsure_layers(
    curve: Floats, shares: tuple[float, float], looseness: float, depth: int
) -> tuple[float, list[int]]:
    """The layers to skip, and the lambda that gives them.

    Args:
        curve: Confidence of each candidate layer, shape [n].
        shares: Least and largest share of the candidates to skip.
        looseness: lambda of the choice before.
        depth: Layers of the model.

    Returns:
        lambda, and places of the skipped layers in the curve, ascending. If no lambda gives a share in range,
        they are those of the last one tried.
    """
    scaled = (curve - curve.mean()) / (curve.std() + 1e-6)
    widths = neighbourhoods(scaled, depth)
    least, most = shares
    places: list[int] = []
    for _ in range(MOST_STEPS):
        bounds = local_bounds(scaled, widths, looseness)
        places = np.flatnonzero(scaled < bounds).tolist()
        share = len(places) / len(curve)
        if least <= share <= most:
            break
        looseness += STEP if share > most else -STEP
    return looseness, places


def neighbourhoods(curve: Floats, depth: int) -> list[int]:
    """Width of the neighbourhood of every layer: larger for deep layers, and where the curve bends up."""
    bend = np.gradient(np.gradient(curve))
    reach = max(bend.max() - bend.mean(), bend.mean() - bend.min())
    scale = np.full_like(bend, 0.5) if reach == 0 else 0.5 + 0.5 * (bend - bend.mean()) / reach
    return [NEAREST + int(WIDEST * scale[n] * (n + 1) / depth) for n in range(len(curve))]


def local_bounds(curve: Floats, widths: list[int], looseness: float) -> Floats:
    """Mean of each layer's neighbours minus `looseness` of their standard deviations, shape [n]."""
    bounds = []
    for n, width in enumerate(widths):
        first, stop = max(0, n - width // 2), n + width // 2 + 1
        others = np.concatenate([curve[first:n], curve[n + 1 : stop]])
        bounds.append(others.mean() - looseness * others.std())
    return np.array(bounds)
