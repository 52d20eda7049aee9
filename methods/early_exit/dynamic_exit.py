"""DEL, dynamic exit layer (arXiv 2504.05598): early-exit drafting that chooses exit and length every round.

As in LayerSkip, the first layers of the target draft and the others verify. Which layer to exit at is learned
from the text itself. Drafting and verification compute the rows of every layer at every position anyway; run
through the target's head, they tell which token each exit *would have* drafted (a shadow token), whether it
is the target's, and how confident the exit was. Running averages of these give every exit an acceptance and a
confidence threshold. The next round drafts at the exit with the most expected tokens per layer loaded, and
stops after a token below that exit's threshold. The averages start anew with every prompt, from the last
positions of the prompt itself.

Implemented from notes on the authors' code, without the text of the paper. Differs from their code in:
- the prompt has a prefill of its own, so the averages hold its last `warmup` positions before the first
  round, which then chooses like any other instead of drafting one token at layer 1;
- the head runs over those positions only, not over the whole prompt;
- an exit without a mismatch (or match) so far has threshold 0, an exit without any count has acceptance 0
  (NaN and infinity there);
- draft length 0 is plain decoding (there, one token is drafted all the same);
- positions after the first rejected token never count, under sampling either;
- the stop looks at the probability of the most likely token; under greedy decoding this is the drafted token;
- only the exit that drafted passes through the head in every round, with the logits of its draft. For the
  other exits the rounds stay pending and count as matches, an upper bound; their rows pass through the head,
  all pending rounds at once, when an exit would win by that bound. The choice is the same and costs less;
- the draft never exceeds the remaining budget; `objective` = ``time`` is an addition.

Shapes: K drafted tokens, J exits, G draft lengths 0 .. G - 1, T positions, d width, N tokens to draft from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.runtime.costs import PassCosts, measure_costs
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftHead, DraftVocab, Sampler
from bench.runtime.transfer import begin_download
from methods.core.base import check_exit
from methods.core.chain import ChainMethod, Draft, DraftBuilder, is_unsure
from methods.early_exit.exit_choice import ExitStatistics, Floats, choose, layer_cost
from methods.early_exit.watched import LastRows, WatchedPrefix

OBJECTIVES = ("layers", "time")
TIMED_ROWS = (1, 2, 4, 8, 12, 16, 20, 32)
MOST_PENDING = 64
"""Most rounds whose rows are kept for an exit before they pass through the head: they take memory."""
MOST_ROWS = 64
"""Most rows that pass through the head together: their logits over a large vocabulary take memory."""


class DynamicExit(ChainMethod):
    """Early-exit drafting at the layer that pays best at the moment.

    Args:
        decay: Weight of the past in the running averages, per round (omega).
        lengths: Draft lengths that the objective compares, 0 .. `lengths` - 1 (gamma_max).
        draft_length: Most tokens drafted per round.
        warmup: Prompt positions before the last one that the averages start with.
        min_exit: Smallest candidate exit.
        max_exit: Largest candidate exit; None is the last layer but one.
        stop: End a draft by the exit's threshold, as DEL does; False drafts exactly the length chosen.
        exit_layer: The only candidate, for the ablation; None compares all.
        objective: Tokens per ``layers`` loaded, as in the paper, or per second (``time``) by costs measured
            in `attach`, which count the head too.
        draft_vocab: How many of the most frequent tokens may be drafted (N); None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "del"

    def __init__(
        self,
        *,
        decay: float,
        lengths: int,
        draft_length: int,
        warmup: int,
        min_exit: int,
        max_exit: int | None,
        stop: bool,
        exit_layer: int | None,
        objective: str,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie in [0, 1], got {decay}")
        for name, value in (("lengths", lengths), ("draft_length", draft_length)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if warmup < 0:
            raise ValueError(f"warmup must be at least 0, got {warmup}")
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
        self._decay, self._lengths, self._limit, self._warmup = decay, lengths, draft_length, warmup
        self._range = (min_exit, max_exit) if exit_layer is None else (exit_layer, exit_layer)
        self._stops_early, self._objective = stop, objective
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)

    def attach(self, decoder: Decoder) -> None:
        first, last = self._range[0], self._range[1] or decoder.depth - 1
        check_exit(first, decoder, self.name)
        check_exit(max(first, last), decoder, self.name)
        self._decoder, self._head = decoder, self._vocab.head(decoder)
        self._exits = tuple(range(first, max(first, last) + 1))
        exits = np.array(self._exits, dtype=np.float64)
        if self._objective == "layers":
            self._cost = layer_cost(exits, decoder.depth, self._lengths)
        else:
            costs = measure_costs(decoder, TIMED_ROWS, self._head)
            self._cost = time_cost(exits, decoder.depth, self._lengths, costs)

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        decoder = self._decoder
        taps = LastRows(self._warmup + 1, (*self._exits, decoder.depth), decoder.embedding)
        logits = decoder.prefill(prompt_ids, taps)
        self._statistics = ExitStatistics(len(self._exits), self._decay)
        self._pending: list[Shadow] = []
        target = decoder.head(taps[decoder.depth]).argmax(dim=-1)
        self._add_pending(Shadow(torch.stack([taps[layer] for layer in self._exits]), target))
        self._choose()
        return logits

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        exit_layer = self._exit_layer
        self._exit = WatchedPrefix(self._decoder, self._exits, base, exit_layer)
        row = self._exit.advance(root)
        self._draft_logits: list[Tensor] = []
        self._is_greedy = sampler.is_greedy
        chain, stop = DraftBuilder(root, self._length, room, self._head), None
        while chain.has_room and stop is None:
            logits = self._head(row)
            self._draft_logits.append(logits)
            row = self._exit.advance(chain.propose(logits, sampler))
            if self._stops_early and is_unsure(logits, self._threshold):
                stop = "confidence"
        self._last_row = row
        return chain.finish(stop, exit_layer)

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        self._target = self._exit.verify()
        self._ahead = self._rate_ahead() if self._target.is_cuda else None
        return self._target

    def _rate_ahead(self) -> Ahead:
        """Rate the drafts while the host does not know yet which are accepted.

        The host then reads what is accepted and the ratings in one wait; to rate the accepted ones alone, it
        would have to wait for both. On a CPU nothing waits, and those alone are less work.
        """
        target = self._target.argmax(dim=-1)
        logits = torch.cat(self._draft_logits or [self._head(self._last_row)])
        return Ahead(target, begin_download(rate(logits, self._head, target[: len(logits)])))

    def commit(self, emitted: Tensor, base: int) -> None:
        """Keep every exit's rows at the emitted positions, rate the exit that drafted, and choose anew."""
        count = emitted.numel()
        if self._ahead is not None:
            target = self._ahead.target[:count]
        else:
            target = emitted if self._is_greedy else self._target[:count].argmax(dim=-1)
        shadow = Shadow(self._exit.rows()[:, :count], target)
        self._add_pending(shadow)
        self._settle_drafting_exit(shadow)
        self._choose()

    def _add_pending(self, shadow: Shadow) -> None:
        self._statistics.add_pending(shadow.target.numel())
        self._pending.append(shadow)

    def _settle_drafting_exit(self, shadow: Shadow) -> None:
        """Rate the exit that drafted; only the row after a fully accepted draft has no logits yet."""
        index, count = self._exits.index(self._exit_layer), shadow.target.numel()
        if self._ahead is not None and count <= self._ahead.ratings.shape[1]:
            ratings = self._ahead.ratings[:, :count]
        else:
            known = self._draft_logits[:count]
            if len(known) < count:
                known.append(self._head(self._last_row))
            ratings = rate(torch.cat(known), self._head, shadow.target)
        self._statistics.settle(index, shadow_sums(ratings, np.ones(count)))

    def _choose(self) -> None:
        """Choose exit and length for the next round; exits that cannot win stay pending."""
        statistics = self._statistics
        for index in np.flatnonzero(statistics.pending >= MOST_PENDING):
            self._settle(int(index))
        choice = choose(statistics.acceptance, self._cost)
        while statistics.pending[choice.index]:
            self._settle(choice.index)
            choice = choose(statistics.acceptance, self._cost)
        del self._pending[: len(self._pending) - int(statistics.pending.max())]
        self._exit_layer = self._exits[choice.index]
        self._threshold = statistics.threshold(choice.index)
        self._length = 0 if choice.length == 0 else self._limit if self._stops_early else choice.length

    def _settle(self, index: int) -> None:
        """Run the head on the rows of an exit's pending rounds; one host sync."""
        count = int(self._statistics.pending[index])
        pending = self._pending[-count:]
        rows = torch.split(torch.cat([shadow.rows[index] for shadow in pending]), MOST_ROWS)
        targets = torch.split(torch.cat([shadow.target for shadow in pending]), MOST_ROWS)
        ratings = [rate(self._head(part), self._head, best) for part, best in zip(rows, targets, strict=True)]
        ages = np.arange(count - 1, -1, -1)
        weights = np.repeat(self._decay**ages, [shadow.target.numel() for shadow in pending])
        self._statistics.settle(index, shadow_sums(torch.cat(ratings, dim=1), weights))


@dataclass(frozen=True, slots=True)
class Shadow:
    """What the exits of a round are rated by.

    Args:
        rows: Rows leaving each exit at the emitted positions, shape [J, T, d].
        target: The target's own choices there, shape [T].
    """

    rows: Tensor
    target: Tensor


@dataclass(frozen=True, slots=True)
class Ahead:
    """The exit that drafts, rated before it is known which tokens are accepted.

    Args:
        target: The target's own choice after every row of the round, shape [K + 1].
        ratings: What `rate` returns for the drafted tokens, shape [2, K], or for the root alone if there are
            none; on the host once it has next waited for the device.
    """

    target: Tensor
    ratings: Tensor


def rate(logits: Tensor, head: DraftHead, target: Tensor) -> Tensor:
    """Whether an exit's own token is the target's (1 or 0), and its confidence in it, shape [2, T].

    Args:
        logits: Of the exit, shape [T, N].
        head: The head that made them; a target outside of its list counts as a mismatch.
        target: The target's own choices there, shape [T].
    """
    is_match = logits.argmax(dim=-1) == head.places(target)
    confidence = logits.float().softmax(dim=-1).amax(dim=-1)
    return torch.stack([is_match.to(confidence.dtype), confidence])


def shadow_sums(ratings: Tensor, weights: Floats) -> Floats:
    """Figures of an exit's own tokens, as `ExitStatistics.settle` takes them, shape [4]. One host sync, if
    they are on the device.

    Args:
        ratings: What `rate` returned for the positions, shape [2, T].
        weights: Of each position, shape [T].
    """
    matched, confidence = np.array(ratings.tolist())
    right, wrong = weights * matched, weights * (1 - matched)
    return np.array([right.sum(), wrong.sum(), right @ confidence, wrong @ confidence])


def time_cost(exits: Floats, depth: int, lengths: int, costs: PassCosts) -> Floats:
    """Seconds of a round by exit E and draft length g, shape [J, G].

    g tokens are drafted one by one through E layers and the head, one more token passes the E layers only,
    then g + 1 rows pass the other layers and the whole head together.
    """
    drafted = np.arange(lengths)
    shallow = exits[:, None] * costs.layer(np.ones(1, dtype=np.int64))  # [J, 1]
    deep = (depth - exits[:, None]) * costs.layer(drafted + 1)
    seconds: Floats = (drafted + 1) * shallow + drafted * costs.draft_head_s + deep + costs.head(drafted + 1)
    return seconds
