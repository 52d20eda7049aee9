"""CLaSp: the draft leaves out the layers that the last accepted token needs least, arXiv 2505.24196.

After a verification the hidden rows of the last accepted token are known at every layer. A dynamic programme
(section 3.3) finds which M of the L layers to leave out so that the row leaving the last layer stays as
similar as possible, by cosine, to the target's own: state (i, j) is the most similar row after i layers of
which j were left out, made of state (i - 1, j) by running layer i, or of state (i - 1, j - 1) by leaving it
out. It is approximate, since each state keeps one row only. All states of a layer run in one pass, side by
side (section 3.5, "sequence parallel"). The set then serves for some rounds (section 3.6).

No code of the authors is public. Written from the paper and from the reading of it by KnapSpec's authors
(github.com/kaist-flexml-lab/knapspec, whose defaults are taken): an independent re-implementation.

Differs from that code in:
- the first round drafts nothing (there, with the whole model);
- the draft stops after a token with a top probability below the threshold, under sampling too (there, by the
  probability of the drawn token, which biases sampled output);
- a layer that improves nothing is left out at equal similarity, as there.

Shapes: L layers, M layers left out, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder, Skip
from methods.core.base import Traits
from methods.core.chain import Draft
from methods.skipping.branches import Branches, ContextSkip, similarity
from methods.skipping.sublayer_skip import skip_of

Run = Callable[[Tensor, int], Tensor]
"""Rows leaving a layer for rows [F, d] that enter it."""


class Clasp(ContextSkip):
    """Layers left out by a dynamic programme over the last accepted token.

    Args:
        skipped_layers: Layers to leave out (M); None takes a quarter of the model's.
        draft_length: See `ContextSkip`, as for the others.
        threshold: Drafting stops after a token with a top probability below this.
        interval: Rounds between two choices.
        draft_vocab: How many of the most frequent tokens may be drafted; None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "clasp"
    traits = Traits(is_reimplementation=True)

    def __init__(
        self,
        *,
        skipped_layers: int | None,
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
        if skipped_layers is not None and skipped_layers < 1:
            raise ValueError(f"skipped_layers must be at least 1, got {skipped_layers}")
        self._configured = skipped_layers

    def attach(self, decoder: Decoder) -> None:
        super().attach(decoder)
        self._most = max(1, decoder.depth // 4) if self._configured is None else self._configured
        if self._most >= decoder.depth:
            raise UserError(
                f"clasp: skipped_layers must lie in 1..{decoder.depth - 1} for this model, got {self._most}",
                f"set method.skipped_layers; for {decoder.depth} layers try {max(1, decoder.depth // 4)}",
            )

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        """Run root and draft through the target; where a choice is due, note the rows at every layer."""
        if not self.is_due:
            return super().verify(root, draft, base)
        decoder = self._decoder
        self._taps = dict.fromkeys(range(decoder.depth + 1), decoder.embedding)
        tokens = torch.cat([root, draft.tokens])
        place = decoder.placement.chain(base, tokens.numel())
        return decoder.head(decoder.run_layers(decoder.embed(tokens), place, taps=self._taps))

    def commit(self, emitted: Tensor, base: int) -> None:
        """Where a choice is due, keep the rows of the last accepted token."""
        if self.is_due:
            last = emitted.numel() - 1
            self._target = torch.stack([self._taps[layer][last] for layer in sorted(self._taps)])

    def choose(self) -> Skip | None:
        branches = Branches(self._decoder, 1)
        if not branches.has_room(self._most):
            return None
        left_out = layers_to_skip(self._target, branches.run, self._most)
        branches.end()
        return skip_of(left_out, left_out)


def layers_to_skip(target: Tensor, run: Run, most: int) -> list[int]:
    """The layers to leave out, ascending; the host waits once.

    Args:
        target: The token's row entering every layer, and the one leaving the last, shape [L + 1, d].
        run: Runs a layer on several rows.
        most: Layers to leave out (M), fewer than L.
    """
    states = target[:1]  # state j of the layers so far, for j = 0 to their number or M
    decisions: list[Tensor] = []
    for layer in range(target.shape[0] - 1):
        states, is_left_out = _step(states, target[layer + 1], layer, run, most)
        decisions.append(is_left_out)
    flags = torch.cat(decisions).tolist()
    ends = accumulate(len(part) for part in decisions)
    return _backtracked(
        [flags[end - len(part) : end] for part, end in zip(decisions, ends, strict=True)], most
    )


def _step(states: Tensor, goal: Tensor, layer: int, run: Run, most: int) -> tuple[Tensor, Tensor]:
    """The states after one more layer, and whether each of them leaves that layer out.

    State 0 leaves nothing out, so it is the target's own row `goal` [d]. Of the others, state j comes from
    state j by running the layer, or from state j - 1 by leaving it out, whichever row is more similar to
    `goal`; the last state that there is can only come from the one before it.
    """
    chosen = states[:most]  # of state j = 1 and on: the layer is left out
    flags = torch.ones(chosen.shape[0], dtype=torch.bool, device=goal.device)
    if (others := states.shape[0] - 1) > 0:
        ran, left = run(states[1:], layer), chosen[:others]
        flags[:others] = similarity(ran[:, None], goal[None]) <= similarity(left[:, None], goal[None])
        best = torch.where(flags[:others, None], left, ran)
        chosen = torch.cat([best, chosen[others:]])
    return torch.cat([goal[None], chosen]), flags


def _backtracked(decisions: list[list[bool]], most: int) -> list[int]:
    """The layers left out on the way to state M of the last layer."""
    state, layers = most, list[int]()
    for layer in range(len(decisions) - 1, -1, -1):
        if state and decisions[layer][state - 1]:
            layers.append(layer)
            state -= 1
    return layers[::-1]
