"""DEL, a dynamic exit layer: self-speculation that chooses anew every round where and how long to draft.

Implemented from the notes on the authors' code (specs: swift-del-layerskip, section 6); the paper's own text
was not at hand.

Every layer's row of every verified position is there already, from drafting or from verification. Behind a
round all of them pass through the target's head at once: the tokens each exit *would have* drafted (shadow
tokens, section 6.3), how often they are the target's, how sure the exit was. From running averages of these
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
- the draft never exceeds the remaining budget; `objective` = ``time`` and `shadow_every` are additions.

Shapes: K drafted tokens, J candidate exits, G draft lengths 0 .. G - 1, d width, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.records import Generation
from bench.runtime.costs import PassCosts, measure_costs
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from methods.base import Budget, Clock, Exactness
from methods.chain import Draft, DraftBuilder, generate_chain, is_unsure
from methods.early_exit import PrefixExit, check_exit
from methods.exit_choice import Choice, ExitStatistics, Floats, choose, layer_cost

OBJECTIVES = ("layers", "time")
TIMED_ROWS = (1, 2, 4, 8, 12, 16, 20, 32)


class DynamicExit:
    """Early-exit drafting at the layer that pays best now; implements `methods.chain.ChainDrafter`.

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
        shadow_every: Rounds from one look at all exits to the next; 1 is the paper's. In between the choice
            stands. The look is the method's own cost: the head on J (K + 1) rows.
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
        shadow_every: int,
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie in [0, 1], got {decay}")
        for name, value in (
            ("lengths", lengths),
            ("draft_length", draft_length),
            ("shadow_every", shadow_every),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if warmup < 0:
            raise ValueError(f"warmup must be at least 0, got {warmup}")
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
        self._decay, self._lengths, self._limit, self._warmup = decay, lengths, draft_length, warmup
        self._range = (min_exit, max_exit) if exit_layer is None else (exit_layer, exit_layer)
        self._stops_early, self._objective, self._every = stop, objective, shadow_every

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

    def exactness(self, sampler: Sampler) -> Exactness:
        return Exactness.GREEDY_EXACT if sampler.is_greedy else Exactness.SAMPLING_EXACT

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        return generate_chain(self, self._decoder, prompt_ids, budget, sampler, clock)

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        decoder, kept = self._decoder, self._warmup + 1
        taps = LastRows(kept, (*self._exits, decoder.depth), decoder.embedding)
        logits = decoder.prefill(prompt_ids, taps)
        self._statistics = ExitStatistics(len(self._exits), self._decay)
        self._rounds = 0
        target = decoder.head(taps[decoder.depth]).argmax(dim=-1)
        self._learn(torch.stack([taps[layer] for layer in self._exits]), target)
        return logits

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        exit_layer = self._exits[self._choice.index]
        self._is_look = self._rounds % self._every == 0
        self._exit.start(base, exit_layer, self._exits if self._is_look else ())
        row = self._exit.advance(root)
        chain, stop = DraftBuilder(root, self._length, room), None
        while chain.has_room and stop is None:
            logits = self._decoder.head(row)
            row = self._exit.advance(chain.propose(logits, sampler))
            if self._stops_early and is_unsure(logits, self._threshold):
                stop = "confidence"
        return chain.finish(stop, exit_layer)

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        self._target = self._exit.verify()
        return self._target

    def commit(self, emitted: Tensor, base: int) -> None:
        """Look at what every exit would have drafted for the tokens that were kept, and choose anew."""
        self._rounds += 1
        if self._is_look:
            count = emitted.numel()
            self._learn(self._exit.seen()[:, :count], self._target[:count].argmax(dim=-1))

    def _learn(self, rows: Tensor, target: Tensor) -> None:
        """Take in the rows of all candidate exits, shape [J, T, d], where the target's choices are [T].

        The sums come to the host in the one copy that choosing needs.
        """
        sums = shadow_sums(self._decoder, rows, target)
        self._statistics.update(np.array(sums.tolist()))
        self._choice: Choice = choose(self._statistics.acceptance, self._cost)
        self._threshold = float(self._statistics.thresholds[self._choice.index])
        is_plain = self._choice.length == 0
        self._length = 0 if is_plain else self._limit if self._stops_early else self._choice.length


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


def shadow_sums(decoder: Decoder, rows: Tensor, target: Tensor) -> Tensor:
    """How the exits' own tokens fare: the argument of `ExitStatistics.update`, shape [4, J].

    Args:
        decoder: The target; its head reads every row.
        rows: Rows leaving each exit, shape [J, T, d].
        target: The target's own choices, shape [T].
    """
    logits = decoder.head(rows.flatten(0, 1)).float()
    best, tokens = logits.max(dim=-1)  # [J T]
    confidence = (best - logits.logsumexp(dim=-1)).exp().view(rows.shape[:2])
    is_match = tokens.view(rows.shape[:2]) == target
    right = is_match.to(confidence.dtype)
    wrong = 1 - right
    return torch.stack([right, wrong, confidence * right, confidence * wrong]).sum(dim=-1)


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
