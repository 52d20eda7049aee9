"""SWIFT: self-speculation with skipped sub-layers, which are searched while decoding, arXiv 2410.06916.

The target drafts with a set of its attention and MLP sub-layers skipped (section 4; see
`methods.skipping.sublayer_skip`) and stops after the first token it is unsure of. The most likely tokens of
every step make a small tree, narrower where the draft was confident (section 4.2); one full pass verifies it.

After a round, while the search is on, another set of sub-layers is scored: in one pass it predicts tokens
that the target has already produced for this prompt, and the share it gets right is its *matchness*. The
better set drafts from then on (section 4.1; `methods.skipping.search`).

The set, its score and the search are kept from one prompt to the next: `Swift` learns over a run, so its
speed depends on the length of the run; tables show it cold, warm and in total. A resumed run searches anew.

Differs from the authors' code in:
- the cache is never copied: drafts and scores use scratch slots after the committed ones;
- a set is scored on W rows, because the prediction after the last of the W + 1 tokens is not used;
- the start set is scored before a try can replace it, and at a new prompt the kept set is scored anew, on
  that prompt's tokens. In their code the first try always wins, and a set that was scored on an easy prompt
  may never be beaten; ``score_start=false`` and ``carry_best=true`` restore that;
- the search starts one token later there: the first token, which the prefill gives, does not count towards
  the W + 1 tokens that it waits for; the phase of `opt_interval` and the optimiser's seed are others as well;
- no set is scored when there are too few free slots;
- under sampling the tree holds the most likely tokens too, not sampled ones: `accept_tree` decides by the
  target's own pick at every node, which is exact for fixed candidates. Their code draws the bonus token after
  a fully accepted path from logits without temperature and cuts; here the sampler picks every emitted token.

Shapes: K candidates per depth, W window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from bench.errors import UserError
from bench.records.model import Generation
from bench.runtime.decoder import Decoder, Skip
from bench.runtime.sampling import DraftVocab, Sampler
from bench.runtime.transfer import upload
from methods.core.base import Budget, Clock
from methods.core.tree_round import TreeDraft, TreeMethod, generate_tree
from methods.core.trees import Tree
from methods.skipping.search import Candidates, SearchRules, SkipSearch
from methods.skipping.sublayer_skip import SkippedModel, check_skip, skip_counts, skip_of

WINDOWS = ("first", "last")


class Swift(TreeMethod):
    """Drafting with sub-layers skipped, chosen by a search that runs while decoding.

    Args:
        search: Whether better sets are searched; False keeps the first set (the authors' "cached" mode).
        skip_attention: Layers whose attention the first set skips; None takes every odd layer.
        skip_mlp: Likewise for MLPs.
        skip_ratio: Share of the candidate sub-layers that every tried set skips (r).
        keep_first_last: Never skip in the first and in the last layer.
        window: Tokens that a scored set predicts (W).
        window_from: ``first``: the first W + 1 tokens of the answer; ``last``: the newest.
        opt_interval: Rounds per score.
        bayes_interval: Scores per suggestion of the optimiser; 0 makes every set random.
        max_iter: The search ends after more tries than this,
        max_tol: or after more tries in a row than this without a better set,
        max_score: or as soon as the kept set scores above this.
        kappa: Weight of uncertainty in the optimiser's upper confidence bound.
        noise: Variance of a score, for the optimiser.
        score_start: Score the start set first; False counts it as 0.
        carry_best: Keep the best score from one prompt to the next; False scores the kept set anew at each.
        seed: Seed of the search.
        draft_length: Depth of the deepest draft.
        threshold: Drafting stops after a token whose probability is below this.
        cuts: Confidences in falling order that a token must exceed for the first, second, .. width; the last
            width is for all other tokens.
        widths_greedy: Candidates per depth by confidence, one more than `cuts`; all 1 drafts a chain.
        widths_sampling: The same under sampling.
        draft_vocab: How many of the most frequent tokens may be drafted (N); None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "swift"

    def __init__(
        self,
        *,
        search: bool,
        skip_attention: list[int] | None,
        skip_mlp: list[int] | None,
        skip_ratio: float,
        keep_first_last: bool,
        window: int,
        window_from: str,
        opt_interval: int,
        bayes_interval: int,
        max_iter: int,
        max_tol: int,
        max_score: float,
        kappa: float,
        noise: float,
        score_start: bool,
        carry_best: bool,
        seed: int,
        draft_length: int,
        threshold: float,
        cuts: list[float],
        widths_greedy: list[int],
        widths_sampling: list[int],
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        for name, value in (
            ("window", window),
            ("opt_interval", opt_interval),
            ("draft_length", draft_length),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 < skip_ratio < 1 or not 0 <= threshold <= 1:
            raise ValueError(
                f"need 0 < skip_ratio < 1 and 0 <= threshold <= 1, got {skip_ratio} and {threshold}"
            )
        if window_from not in WINDOWS:
            raise ValueError(f"window_from must be one of {', '.join(WINDOWS)}, got {window_from!r}")
        self._is_search_on = search
        self._given = (skip_attention, skip_mlp)
        self._ratio, self._keep_first_last = skip_ratio, keep_first_last
        self._window, self._window_from, self._interval = window, window_from, opt_interval
        self._rules = SearchRules(
            bayes_interval, max_iter, max_tol, max_score, kappa, noise, score_start, carry_best, seed
        )
        self._draft_length, self._threshold = draft_length, threshold
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)
        self._greedy_shape = Widths(cuts, widths_greedy)
        self._sampling_shape = Widths(cuts, widths_sampling)

    def attach(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._head = self._vocab.head(decoder)
        self._skipped = SkippedModel(decoder, self._head)
        self._candidates = Candidates.of(decoder.depth, keep_first_last=self._keep_first_last)
        attention, mlp = self._given
        odd = self._candidates.odd_layers()
        self._start = skip_of(
            odd.attention if attention is None else attention, odd.mlp if mlp is None else mlp
        )
        check_skip(self._start, decoder, self.name)
        count = self._candidates.count
        if self._is_search_on and not 0 < self._candidates.number(self._ratio) < count:
            raise UserError(
                f"swift: skip_ratio {self._ratio} of this model's {count} candidates allows one set only",
                "raise method.skip_ratio, set method.keep_first_last=false, or method.search=false",
            )
        self.reset()

    def reset(self) -> None:
        """Forget what was learned from earlier prompts: take the start set, and begin the search anew."""
        self._search: SkipSearch | None = None
        if self._is_search_on:
            number = self._candidates.number(self._ratio)
            self._search = SkipSearch(self._candidates, self._start, number, self._rules)
        self._counts: Counter[str] = Counter()

    @property
    def skip(self) -> Skip:
        """The set that drafts now."""
        return self._start if self._search is None else self._search.best

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        self._counts = Counter()
        self._rounds = 0
        self._prompt = prompt_ids.numel()
        if self._search is not None:
            self._search.next_prompt()
            self._counts.update(search_steps=0, searching_rounds=0)  # present even if nothing is searched
        after = partial(self._after_round, clock)
        generation = generate_tree(self, self._decoder, prompt_ids, budget, sampler, clock, after_round=after)
        return replace(generation, counts=dict(self._counts))

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        shape = self._greedy_shape if sampler.is_greedy else self._sampling_shape
        self._skipped.start(base, self.skip)
        most = min(shape.most, self._head.size)
        token, candidates, widths = root, [root.new_zeros(0, most)], list[int]()
        stop = "length" if self._draft_length <= room else "budget"
        while len(widths) < min(self._draft_length, room):
            best = self._skipped.advance(token).float().softmax(dim=-1).topk(most, dim=-1)
            candidates.append(self._head.tokens(best.indices))
            token = candidates[-1][0, :1]
            confidence = float(best.values[0, 0])  # one host sync per step: width and stop need the value
            widths.append(min(shape.of(confidence), most))
            if confidence < self._threshold:
                stop = "confidence"
                break
        self._skipped.end()
        tree = confidence_tree(tuple(widths), root.device).fit(room, slots)
        return TreeDraft(tree, tree.gather(root, torch.cat(candidates)), stop)

    def _after_round(self, clock: Clock, ids: Sequence[int]) -> None:
        """Count the round and, if a score is due, score a set on the answer `ids` so far."""
        self._rounds += 1
        self._counts.update(skip_counts(self.skip, self._decoder.depth, rounds=1))
        search = self._search
        if search is None or not search.is_on:
            return
        self._counts["searching_rounds"] += 1
        is_due = len(ids) > self._window + 1 and self._rounds % self._interval == 0
        if is_due and self._skipped.has_room(self._window):
            with clock.phase("search"):
                search.step(partial(self._matchness, *self._scored(ids)))
            self._counts["search_steps"] += 1

    def _scored(self, ids: Sequence[int]) -> tuple[Tensor, int]:
        """The W + 1 tokens that sets are scored on, and the position of the first of them."""
        first = 0 if self._window_from == "first" else len(ids) - self._window - 1
        text = ids[first : first + self._window + 1]
        return upload(torch.tensor(text), self._decoder.device), self._prompt + first

    def _matchness(self, text: Tensor, start: int, skip: Skip) -> float:
        predicted = self._skipped.predict(text[:-1], start, skip).argmax(dim=-1)
        return matchness(self._head.tokens(predicted), text[1:])


def matchness(predicted: Tensor, targets: Tensor) -> float:
    """Share of predicted tokens [W] that are the target's [W] (section 4.1)."""
    return float((predicted == targets).float().mean())


class Widths:
    """How many candidates a depth offers, by the confidence of the best one (section 4.2).

    Args:
        cuts: Bounds in falling order; a confidence above the first takes the first width, and so on.
        widths: Widths, one more than bounds.
    """

    def __init__(self, cuts: Sequence[float], widths: Sequence[int]) -> None:
        if len(widths) != len(cuts) + 1 or list(cuts) != sorted(cuts, reverse=True) or min(widths) < 1:
            raise ValueError(
                f"need falling cuts and one more width than cuts, each at least 1, "
                f"got {list(cuts)} and {list(widths)}"
            )
        self._cuts, self._widths = tuple(cuts), tuple(widths)
        self.most = max(widths)

    def of(self, confidence: float) -> int:
        """Width at this confidence."""
        return self._widths[sum(confidence <= cut for cut in self._cuts)]


@lru_cache(maxsize=1024)  # long drafts have many shapes; a tree of 60 nodes takes about 10 kB
def confidence_tree(widths: tuple[int, ...], device: torch.device) -> Tree:
    """A chain of the best candidates, with the others of each depth as leaves; `widths` nodes per depth."""
    paths = [(*(0,) * depth, rank) for depth, width in enumerate(widths) for rank in range(width)]
    return Tree.of_paths(paths, device)
