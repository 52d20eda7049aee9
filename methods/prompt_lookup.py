"""Drafts copied from the text so far: Prompt Lookup Decoding (A. Saxena, 2023), the draft-free reference.

The last n tokens are looked up in prompt and output, longest n first; what followed their earliest occurrence
is the draft. Settings as Spec-Bench runs them: n from 3 down to 1, 10 tokens (specs/spec-bench.md section 9).

Differs from Spec-Bench's code in:
- without a match nothing is drafted (there: one dummy token is verified);
- a match near the end of the text drafts the tokens there are (there: it must yield 10);
- sampling is supported: a copied token counts as drafted with certainty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.records import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from bench.runtime.transfer import upload
from methods.base import Budget, Clock, Exactness
from methods.chain import Draft, generate_chain


class PromptLookup:
    """Chain speculation with n-gram copies.

    Args:
        max_ngram: Longest suffix looked up.
        draft_length: Most tokens copied per round.
    """

    def __init__(self, *, max_ngram: int, draft_length: int) -> None:
        if max_ngram < 1 or draft_length < 1:
            raise ValueError(
                f"max_ngram and draft_length must be at least 1, got {max_ngram} and {draft_length}"
            )
        self._max_ngram = max_ngram
        self._draft_length = draft_length

    def attach(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def exactness(self, sampler: Sampler) -> Exactness:
        return Exactness.GREEDY_EXACT if sampler.is_greedy else Exactness.SAMPLING_EXACT

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        return generate_chain(self, self._decoder, prompt_ids, budget, sampler, clock)

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._text = NgramIndex(self._max_ngram, prompt_ids.tolist())
        return self._decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        if base == len(self._text):  # the prefill's token; later roots come in through commit
            self._text.extend(root.tolist())
        limit = min(self._draft_length, room)
        copied = self._text.continuation(limit)
        tokens = upload(torch.tensor(copied, dtype=root.dtype), root.device)
        return Draft(tokens, "length" if len(copied) == self._draft_length else "match")

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        return self._decoder.step(torch.cat([root, draft.tokens]), base)

    def commit(self, emitted: Tensor, base: int) -> None:
        self._text.extend(emitted.tolist())


class NgramIndex:
    """A growing text that knows where each n-gram first occurred.

    Args:
        max_ngram: Longest n-gram indexed.
        ids: The text to begin with.
    """

    def __init__(self, max_ngram: int, ids: list[int]) -> None:
        self._max_ngram = max_ngram
        self._ids: list[int] = []
        self._first: dict[tuple[int, ...], int] = {}  # n-gram -> index behind its first occurrence
        self.extend(ids)

    def __len__(self) -> int:
        return len(self._ids)

    def extend(self, ids: list[int]) -> None:
        """Append tokens; an n-gram is indexed once a token follows it, the text's own end does not count."""
        for token in ids:
            end = len(self._ids)
            for n in range(1, min(self._max_ngram, end) + 1):
                self._first.setdefault(tuple(self._ids[end - n :]), end)
            self._ids.append(token)

    def continuation(self, limit: int) -> list[int]:
        """At most `limit` tokens that followed the earliest occurrence of the longest known suffix."""
        for n in range(min(self._max_ngram, len(self._ids)), 0, -1):
            start = self._first.get(tuple(self._ids[-n:]))
            if start is not None:
                return self._ids[start : start + limit]
        return []
