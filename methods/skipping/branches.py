"""Several ways to leave layers out, run side by side on the newest tokens of a text.

A *branch* is a candidate: what the rows of the newest T committed tokens become when some layers are left
out. Its rows see the committed slots before those T tokens, and each other; they are written to scratch slots
after the committed ones, and no branch sees another. So one pass runs a layer for all candidates. The
branches of CLaSp and KnapSpec are the states of their dynamic programmes.

`ContextSkip` is the base class of methods that choose anew, every few rounds, what their draft leaves out.

Shapes: F branches, T tokens, d width.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.records.model import Generation
from bench.runtime.decoder import NO_SKIP, Decoder, Skip
from bench.runtime.rows import Rows
from bench.runtime.sampling import DraftVocab, Sampler
from methods.core.base import Budget, Clock
from methods.core.chain import ChainMethod, Draft, DraftBuilder, generate_chain, is_unsure
from methods.skipping.sublayer_skip import SkippedModel, skip_counts


class Branches:
    """Runs single layers on the rows of several branches.

    Args:
        decoder: The target; its cache holds the text.
        tokens: How many of the newest tokens each branch has rows of (T).
    """

    def __init__(self, decoder: Decoder, tokens: int) -> None:
        self._decoder, self._tokens = decoder, tokens
        self._length = decoder.cache.length
        self._places: dict[int, Rows] = {}

    def has_room(self, branches: int) -> bool:
        """Whether there are scratch slots for so many branches, and as many tokens in the cache."""
        needed = self._length + branches * self._tokens
        return self._length > self._tokens and needed <= self._decoder.capacity

    def run(self, rows: Tensor, layer: int, skip: Skip = NO_SKIP) -> Tensor:
        """Rows leaving a layer, shape [F T, d], from the rows that enter it, branch by branch.

        Args:
            rows: Shape [F T, d].
            layer: Its attention must run once at most before `end`.
            skip: A sub-layer of it to leave out.
        """
        return self._decoder.run_layers(rows, self._place(rows.shape[0]), layer, layer + 1, skip=skip)

    def end(self) -> None:
        """Release the scratch slots."""
        self._decoder.cache.truncate(self._length)

    def _place(self, rows: int) -> Rows:
        if rows not in self._places:
            tokens, device = self._tokens, self._decoder.device
            steps = torch.arange(tokens, device=device)
            depths = steps.repeat(1 + rows // tokens)  # first those of the tokens' committed rows
            causal = steps[None, :] <= steps[:, None]
            sees = torch.block_diag(*[causal] * (1 + rows // tokens)).bool()
            place = self._decoder.placement.tree(self._length - tokens, depths, sees, first=tokens)
            self._places[rows] = place
        return self._places[rows]


def similarity(rows: Tensor, target: Tensor) -> Tensor:
    """Cosine similarity of branches [F, T, d] with the target's rows [T, d], mean over tokens, shape [F]."""
    return F.cosine_similarity(rows.float(), target.float()[None], dim=-1).mean(dim=-1)


class ContextSkip(ChainMethod):
    """A chain method whose draft leaves out what suits the text so far; a subclass writes `choose`.

    The first round drafts nothing: nothing is chosen yet.

    Args:
        draft_length: Most tokens drafted per round (K).
        threshold: Drafting stops after a token with a top probability below this.
        interval: Rounds between two choices; the first comes after the first round.
        draft_vocab: How many of the most frequent tokens may be drafted; None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name: str

    def __init__(
        self,
        *,
        draft_length: int,
        threshold: float,
        interval: int,
        draft_vocab: int | None,
        frequent_tokens: str | None,
    ) -> None:
        if draft_length < 1 or interval < 1:
            raise ValueError(
                f"draft_length and interval must be at least 1, got {draft_length} and {interval}"
            )
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        self._draft_length, self._threshold, self._interval = draft_length, threshold, interval
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)

    def attach(self, decoder: Decoder) -> None:
        self._decoder, self._head = decoder, self._vocab.head(decoder)
        self._skipped = SkippedModel(decoder, self._head)

    def choose(self) -> Skip | None:
        """What to leave out of the next drafts; None where there is no room to find out."""
        raise NotImplementedError

    @property
    def is_due(self) -> bool:
        """Whether a choice follows the round that is running."""
        return self._rounds % self._interval == 0

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        self._skip: Skip | None = None
        self._rounds = self._choices = self._left_out = 0
        after = partial(self._after_round, clock)
        generation = generate_chain(
            self, self._decoder, prompt_ids, budget, sampler, clock, after_round=after
        )
        every = skip_counts(NO_SKIP, self._decoder.depth, len(generation.rounds))
        counts = {**every, "skipped_sublayers": self._left_out, "choices": self._choices}
        return replace(generation, counts=counts)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        chain = DraftBuilder(root, self._draft_length, room, self._head)
        if self._skip is None:
            return chain.finish("unchosen")
        self._skipped.start(base, self._skip)
        token, stop = root, None
        while chain.has_room and stop is None:
            logits = self._skipped.advance(token)
            token = chain.propose(logits, sampler)
            if is_unsure(logits, self._threshold):
                stop = "confidence"
        self._skipped.end()
        return chain.finish(stop)

    def _after_round(self, clock: Clock) -> None:
        """Count the round and, if a choice is due, choose."""
        skip = self._skip
        if skip is not None:
            self._left_out += len(skip.attention) + len(skip.mlp)
        if self.is_due:
            with clock.phase("search"):
                self._skip = self.choose() or skip
            self._choices += 1
        self._rounds += 1
