"""DEL, a dynamic exit layer: self-speculation that chooses anew every round where and how long to draft.

Implemented from the notes on the authors' code (specs: swift-del-layerskip, section 6); the paper's own text
was not at hand.

Every layer's row of every verified position is there already, from drafting or from verification. Behind a
round they pass through the target's head: the tokens each exit *would have* drafted (shadow tokens, section
6.3), how often they are the target's, how sure the exit was. From running averages of these
the next round takes the exit with the most expected tokens per layer loaded, and the confidence below which
drafting stops. Averages begin anew with every prompt, from the prompt's own last positions.

Differs from the authors' code in:
- the prompt has a prefill of its own, so the averages hold its last `warmup` positions before the first
  round, which is then chosen like any other instead of drafting one token at layer 1;
- the head runs over those positions only, not over the whole prompt;
- an exit without a mismatch (or match) so far has threshold 0, one without any count acceptance 0 (NaN and
  infinity there);
- draft length 0 is plain decoding (there: one token is drafted all the same);
- positions behind the first rejected token never count, under sampling neither;
- the stop looks at the most likely token's probability, the drafted token's own under greedy decoding;
- the exit that drafted is judged by its draft's own logits; the rows of the others wait until they could win
  if they all held matches, and only then pass through the head, all waiting rounds at once. The choice is the
  same, at a fraction of the cost;
- the draft never exceeds the remaining budget; `objective` = ``time`` is an addition.

Shapes: K drafted tokens, J candidate exits, G draft lengths 0 .. G - 1, d width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.runtime.costs import PassCosts, measure_costs
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from bench.runtime.transfer import upload
from methods.core.chain import ChainMethod, Draft, DraftBuilder, is_unsure
from methods.early_exit.exit_choice import ExitStatistics, Floats, choose, layer_cost
from methods.early_exit.prefix import PrefixExit, check_exit

OBJECTIVES = ("layers", "time")
TIMED_ROWS = (1, 2, 4, 8, 12, 16, 20, 32)
MOST_WAITING = 64
"""Rounds that an exit's rows wait at most: they take memory."""


class DynamicExit(ChainMethod):
    """Early-exit drafting at the layer that pays best now.

    Args:
        decay: Weight of the past in the running averages, per round (omega).
        lengths: Draft lengths that the objective weighs, 0 .. `lengths` - 1 (gamma_max).
        draft_length: Most tokens drafted per round.
        warmup: Prompt positions before the last one that the averages begin with.
        min_exit: Shallowest candidate exit.
        max_exit: Deepest candidate exit; None is the last layer but one.
        stop: End a draft by the exit's threshold, as DEL does; False drafts exactly the length chosen.
        exit_layer: The only candidate, for the ablation; None leaves the choice.
        objective: Tokens per ``layers`` loaded, the paper's, or per second by costs measured at `attach`,
            which count the head (``time``).
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

    def attach(self, decoder: Decoder) -> None:
        first, last = self._range[0], self._range[1] or decoder.depth - 1
        check_exit(first, decoder, self.name)
        check_exit(max(first, last), decoder, self.name)
        self._decoder = decoder
        self._exit = PrefixExit(decoder)
        self._exits = tuple(range(first, max(first, last) + 1))
        exits = np.array(self._exits, dtype=np.float64)
        if self._objective == "layers":
            self._cost = layer_cost(exits, decoder.depth, self._lengths)
        else:
            self._cost = time_cost(exits, decoder.depth, self._lengths, measure_costs(decoder, TIMED_ROWS))

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        decoder, kept = self._decoder, self._warmup + 1
        taps = LastRows(kept, (*self._exits, decoder.depth), decoder.embedding)
        logits = decoder.prefill(prompt_ids, taps)
        self._statistics = ExitStatistics(len(self._exits), self._decay)
        self._waiting: list[Shadow] = []
        target = decoder.head(taps[decoder.depth]).argmax(dim=-1)
        self._wait_for(Shadow(torch.stack([taps[layer] for layer in self._exits]), target))
        self._choose()
        return logits

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        exit_layer = self._exit_layer
        self._exit.start(base, exit_layer, self._exits)
        row = self._exit.advance(root)
        self._drafted: list[Tensor] = []
        self._is_greedy = sampler.is_greedy
        chain, stop = DraftBuilder(root, self._length, room), None
        while chain.has_room and stop is None:
            logits = self._decoder.head(row)
            self._drafted.append(logits)
            row = self._exit.advance(chain.propose(logits, sampler))
            if self._stops_early and is_unsure(logits, self._threshold):
                stop = "confidence"
        return chain.finish(stop, exit_layer)

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        self._target = self._exit.verify()
        return self._target

    def commit(self, emitted: Tensor, base: int) -> None:
        """Set aside what the exits would have drafted for the tokens that were kept, and choose anew."""
        count = emitted.numel()
        if self._is_greedy:
            target = upload(emitted, self._target.device)
        else:
            target = self._target[:count].argmax(dim=-1)
        shadow = Shadow(self._exit.seen()[:, :count], target)
        self._wait_for(shadow)
        self._judge_draft(shadow)
        self._choose()

    def _wait_for(self, shadow: Shadow) -> None:
        self._statistics.wait(shadow.target.numel())
        self._waiting.append(shadow)

    def _judge_draft(self, shadow: Shadow) -> None:
        """Settle the exit that drafted; only a row behind a fully accepted draft has no logits yet."""
        place, known = self._exits.index(self._exit_layer), self._drafted[: shadow.target.numel()]
        if (rest := shadow.rows[place, len(known) :]).numel():
            known.append(self._decoder.head(rest))
        sums = shadow_sums(torch.cat(known), shadow.target, np.ones(shadow.target.numel()))
        self._statistics.settle(place, sums)

    def _choose(self) -> None:
        """Choose exit and length for the next round, looking at no exit that cannot win."""
        statistics = self._statistics
        for place in np.flatnonzero(statistics.waiting >= MOST_WAITING):
            self._look(int(place))
        choice = choose(statistics.acceptance, self._cost)
        while statistics.waiting[choice.index]:
            self._look(choice.index)
            choice = choose(statistics.acceptance, self._cost)
        del self._waiting[: len(self._waiting) - int(statistics.waiting.max())]
        self._exit_layer = self._exits[choice.index]
        self._threshold = statistics.threshold(choice.index)
        self._length = 0 if choice.length == 0 else self._limit if self._stops_early else choice.length

    def _look(self, place: int) -> None:
        """Run the head on an exit's waiting rows; one host sync."""
        count = int(self._statistics.waiting[place])
        waiting = self._waiting[-count:]
        logits = self._decoder.head(torch.cat([one.rows[place] for one in waiting]))
        target = torch.cat([one.target for one in waiting])
        ages = np.arange(count - 1, -1, -1)
        weights = np.repeat(self._decay**ages, [one.target.numel() for one in waiting])
        self._statistics.settle(place, shadow_sums(logits, target, weights))


@dataclass(frozen=True, slots=True)
class Shadow:
    """What a round leaves for its exits to be judged by.

    Args:
        rows: Rows leaving each exit at the positions kept, shape [J, T, d].
        target: The target's own choices there, shape [T].
    """

    rows: Tensor
    target: Tensor


class LastRows(dict[int, Tensor]):
    """Taps for `Decoder.run_layers` that keep only the last rows, so that a long prompt's can go.

    Args:
        count: Rows to keep.
        layers: Layers to tap.
        like: Stands for rows not seen yet.
    """

    def __init__(self, count: int, layers: tuple[int, ...], like: Tensor) -> None:
        super().__init__(dict.fromkeys(layers, like))
        self._count = count

    def __setitem__(self, layer: int, rows: Tensor) -> None:
        super().__setitem__(layer, rows[-self._count :].clone())


def shadow_sums(logits: Tensor, target: Tensor, weights: Floats) -> Floats:
    """How an exit's own tokens fare: the argument of `ExitStatistics.settle`, shape [4]. One host sync.

    Args:
        logits: The exit's, shape [T, V].
        target: The target's own choices there, shape [T].
        weights: Of each position, shape [T].
    """
    probs = logits.float().softmax(dim=-1)
    best = probs.amax(dim=-1)
    is_match = probs.gather(1, target[:, None]).squeeze(1) == best  # far cheaper than an argmax
    matched, confidence = np.array(torch.stack([is_match.to(best.dtype), best]).tolist())
    right, wrong = weights * matched, weights * (1 - matched)
    return np.array([right.sum(), wrong.sum(), right @ confidence, wrong @ confidence])


def time_cost(exits: Floats, depth: int, lengths: int, costs: PassCosts) -> Floats:
    """Seconds of a round by exit and draft length, shape [J, G].

    g tokens are drafted one by one through E layers and the head; one more passes the E layers alone; g + 1
    rows pass the other layers and the head together.
    """
    drafted = np.arange(lengths)
    one = np.ones(1, dtype=np.int64)
    shallow = exits[:, None] * costs.layer(one)  # [J, 1]
    deep = (depth - exits[:, None]) * costs.layer(drafted + 1)
    seconds: Floats = (drafted + 1) * shallow + drafted * costs.head(one) + deep + costs.head(drafted + 1)
    return seconds
