"""Chains drafted with sub-layers skipped, where the set is chosen anew between rounds.

CLaSp, KnapSpec and ConfLayers differ in how they choose; the rest is here. A choice happens before a draft,
in a phase of its own (``search``), and looks at text that the target has already cached: its newest tokens
run again, sub-layer by sub-layer, on scratch slots (`Rerun`). The draft uses the set with
`methods.skipping.sublayer_skip` and ends after a token that the skipped model is unsure of; one full pass
verifies it.

Every answer's counts show what choosing costs: ``search_steps`` choices, ``searching_rounds`` rounds with
the search on, and ``search_rows``, rows that ran through a sub-layer to choose.

Shapes: T tokens of the window, B versions of their rows, d width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from bench.errors import UserError
from bench.records.model import Generation, PhaseName
from bench.runtime.decoder import NO_SKIP, Decoder, Skip
from bench.runtime.rows import Rows
from bench.runtime.sampling import DraftVocab, Sampler
from bench.runtime.transfer import upload
from methods.core.base import Budget, Clock
from methods.core.chain import ChainMethod, Draft, DraftBuilder, generate_chain, is_unsure
from methods.skipping.sublayer_skip import SkippedModel, skip_counts

MOST_ROWS = 128
"""Most rows of a pass that serves a choice: their masks and logits take memory."""


class ChosenSkips(ChainMethod):
    """A chain method whose set of skipped sub-layers changes between rounds.

    A subclass writes `is_due` and `choose`, and `learn` where it looks at the acceptance.

    Args:
        draft_length: Most tokens drafted per round.
        threshold: Drafting stops after a token whose probability is below this.
        window: Newest tokens that a choice looks at (T).
        draft_vocab: How many of the most frequent tokens may be drafted; None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.

    Attributes:
        name: Of the method, for messages.
        least_layers: Layers that a model needs, of which some always run.
    """

    name: ClassVar[str]
    least_layers: ClassVar[int] = 1

    def __init__(
        self,
        draft_length: int,
        threshold: float,
        window: int,
        draft_vocab: int | None,
        frequent_tokens: str | None,
    ) -> None:
        if draft_length < 1 or window < 1:
            raise ValueError(f"draft_length and window must be at least 1, got {draft_length} and {window}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        self._limit = self._length = draft_length
        self._threshold, self._window = threshold, window
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)
        self.skip = NO_SKIP

    def attach(self, decoder: Decoder) -> None:
        if decoder.depth < self.least_layers:
            raise UserError(
                f"{self.name}: this model has {decoder.depth} layers, and the first and last always run",
                f"use a model of at least {self.least_layers} layers",
            )
        self._decoder = decoder
        self._head = self._vocab.head(decoder)
        self._skipped = SkippedModel(decoder, self._head)

    def is_due(self) -> bool:
        """Whether a set is to be chosen before the next draft."""
        raise NotImplementedError

    def choose(self, rerun: Rerun) -> Skip:
        """The set for the next drafts, chosen by the newest tokens."""
        raise NotImplementedError

    def is_searching(self) -> bool:
        """Whether sets may still change; the rounds in which they may are counted."""
        return True

    def learn(self, accepted: int, drafted: int) -> None:
        """Take note of a round's acceptance; nothing by default."""

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        self._counts = Counter({"search_steps": 0, "searching_rounds": 0, "search_rows": 0})
        choosing = ChoosingClock(clock, self._is_choice_possible, self._choose)
        generation = generate_chain(self, self._decoder, prompt_ids, budget, sampler, choosing)
        return replace(generation, counts=dict(self._counts))

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._text = prompt_ids.tolist()
        self._prompt = len(self._text)
        self._rounds = 0
        return super().prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        if len(self._text) == base:  # the first root, which the prefill chose; `commit` adds the later ones
            self._text.append(int(root))
        self._counts.update(skip_counts(self.skip, self._decoder.depth, rounds=1))
        self._counts["searching_rounds"] += self.is_searching()
        chain, token, stop = DraftBuilder(root, self._length, room, self._head), root, None
        self._skipped.start(base, self.skip)
        while chain.has_room and stop is None:
            logits = self._skipped.advance(token)
            token = chain.propose(logits, sampler)
            if is_unsure(logits, self._threshold):
                stop = "confidence"
        self._skipped.end()
        draft = chain.finish(stop)
        self._drafted = draft.tokens.numel()
        return draft

    def commit(self, emitted: Tensor, base: int) -> None:
        """Note the new tokens and the acceptance."""
        self._text += emitted.tolist()
        self._rounds += 1
        self.learn(emitted.numel() - 1, self._drafted)

    def _is_choice_possible(self) -> bool:
        return self.is_due() and self._skipped.has_room(self._tokens())

    def _tokens(self) -> int:
        """Tokens of the next window: fewer than configured at the start of a short text."""
        return min(self._window, self._decoder.cache.length)

    def _choose(self) -> None:
        rerun = Rerun(self._decoder, self._text, self._tokens())
        self.skip = self.choose(rerun)
        rerun.end()
        self._counts["search_steps"] += 1
        self._counts["search_rows"] += rerun.count


class ChoosingClock:
    """A clock that lets a method choose before every draft, in the phase ``search``.

    Args:
        clock: Where phases are counted.
        is_due: Whether there is something to choose now; called outside of every phase.
        choose: Chooses.
    """

    def __init__(self, clock: Clock, is_due: Callable[[], bool], choose: Callable[[], None]) -> None:
        self._clock, self._is_due, self._choose = clock, is_due, choose
        self.first_token = clock.first_token

    def phase(self, name: PhaseName) -> AbstractContextManager[None]:
        return self._after_choice() if name == "draft" else self._clock.phase(name)

    @contextmanager
    def _after_choice(self) -> Iterator[None]:
        if self._is_due():
            with self._clock.phase("search"):
                self._choose()
        with self._clock.phase("draft"):
            yield


class Rerun:
    """The newest cached tokens, run again through single layers in several versions at a time.

    Every version stands at the tokens' own positions and sees what is cached before them and itself, no other
    version. Their keys and values go to scratch slots.

    Args:
        decoder: The target; its cache holds the text.
        text: Token ids, at least all that are cached.
        tokens: How many of the newest to run (T); as many slots must be free.

    Attributes:
        start: The rows that enter layer 0, shape [T, d].
        position: Position of the first token.
        count: Rows that have run through a sub-layer or a layer so far.
    """

    def __init__(self, decoder: Decoder, text: Sequence[int], tokens: int) -> None:
        self._decoder, self._length = decoder, decoder.cache.length
        self._tokens = tokens
        self.position = self._length - tokens
        ids = torch.tensor(text[self.position : self._length])
        self.start = decoder.embed(upload(ids, decoder.device))
        self.count = 0
        self._places: dict[int, Rows] = {}

    def run(self, versions: Tensor, layer: int, skip: Skip = NO_SKIP) -> Tensor:
        """Rows [B, T, d] after one layer, of which `skip` may leave out a half, same shape."""
        free = self._decoder.capacity - self._length
        at_once = max(1, min(free, MOST_ROWS) // self._tokens)
        parts = []
        for part in torch.split(versions, at_once):
            place = self._place(part.shape[0])
            rows = self._decoder.run_layers(part.flatten(0, 1), place, layer, layer + 1, skip=skip)
            parts.append(rows.view_as(part))
        self.count += versions.shape[0] * self._tokens
        return torch.cat(parts)

    def end(self) -> None:
        """Release the scratch slots."""
        self._decoder.cache.truncate(self._length)

    def _place(self, versions: int) -> Rows:
        """Slots, positions and mask of some versions; the tokens' own cached slots are hidden from them."""
        if versions not in self._places:
            tokens = self._tokens
            numbers = torch.arange((1 + versions) * tokens, device=self._decoder.device)
            depths, version = numbers % tokens, numbers // tokens  # version 0: the tokens' own cached slots
            sees = (version[:, None] == version) & (depths[:, None] >= depths)
            place = self._decoder.placement.tree(self.position, depths, sees, first=tokens)
            self._places[versions] = place
        return self._places[versions]
