"""Prompt Lookup Decoding (A. Saxena, 2023): drafts copied from prompt and output, without a drafter.

The last n tokens are looked up in prompt and output, longest n first; what followed their earliest occurrence
is the draft. Settings as Spec-Bench runs them: n from 3 down to 1, 10 tokens.

Differs from Spec-Bench's code in:
- without a match nothing is drafted (there, one dummy token is verified);
- a match near the end of the text drafts the tokens that follow it (there, it must yield 10);
- sampling is supported: a copied token counts as drafted with certainty (`methods.core.acceptance.accept`).
"""

from __future__ import annotations

from collections.abc import Iterable

from methods.lookup.copying import CopyingMethod


class PromptLookup(CopyingMethod):
    """Chain speculation with n-gram copies.

    Args:
        max_ngram: Length of the longest suffix looked up (n).
        draft_length: Most tokens copied per round.
    """

    def __init__(self, *, max_ngram: int, draft_length: int) -> None:
        if max_ngram < 1 or draft_length < 1:
            raise ValueError(
                f"max_ngram and draft_length must be at least 1, got {max_ngram} and {draft_length}"
            )
        super().__init__(draft_length)
        self._max_ngram = max_ngram

    def new_text(self, ids: list[int]) -> NgramIndex:
        return NgramIndex(self._max_ngram, ids)


class NgramIndex:
    """A growing text that knows where each n-gram first occurred.

    Args:
        max_ngram: Longest n-gram indexed.
        ids: Start of the text.
    """

    def __init__(self, max_ngram: int, ids: list[int]) -> None:
        self._max_ngram = max_ngram
        self._ids: list[int] = []
        self._first: dict[tuple[int, ...], int] = {}  # n-gram -> index after its first occurrence
        self.extend(ids)

    def __len__(self) -> int:
        return len(self._ids)

    def extend(self, ids: Iterable[int]) -> None:
        """Append tokens; an n-gram is indexed when a token follows it, so the end never matches itself."""
        for token in ids:
            end = len(self._ids)
            for n in range(1, min(self._max_ngram, end) + 1):
                self._first.setdefault(tuple(self._ids[end - n :]), end)
            self._ids.append(token)

    def continuation(self, limit: int) -> list[int]:
        """At most `limit` tokens that followed the earliest occurrence of the longest suffix in the index."""
        for n in range(min(self._max_ngram, len(self._ids)), 0, -1):
            start = self._first.get(tuple(self._ids[-n:]))
            if start is not None:
                return self._ids[start : start + limit]
        return []
