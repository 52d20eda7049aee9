"""Drafts copied from the longest earlier match of the text's end: SAM-Decoding, arXiv 2411.10666.

An online suffix automaton over prompt and output knows, in amortised constant time per token, the longest
suffix that occurred before, however long it is; what followed its earliest occurrence is the draft. A longer
match earns a longer draft. Settings of the authors' code for the automaton alone: up to 4 tokens per matched
one, at most 39 (specs/kangaroo-medusa-and-later-baselines.md section 3.8).

Differs from the authors' code in:
- the text alone is searched: no automaton over a corpus and no second drafter for short matches, so this is
  their row without either; Spec-Bench's row takes EAGLE-2 as the second one;
- the match is read off the automaton (the suffix link of the whole text) instead of being tracked beside it,
  where it may lag behind a state that was split;
- sampling treats a copied token as drafted with certainty, as for every lookup here.
"""

from __future__ import annotations

from collections.abc import Iterable

from methods.lookup.copying import CopyingMethod


class SamDecoding(CopyingMethod):
    """Chain speculation with copies behind the longest match.

    Args:
        draft_length: Most tokens copied per round.
        growth: Tokens copied per matched token (alpha).
    """

    def __init__(self, *, draft_length: int, growth: float) -> None:
        if draft_length < 1 or growth <= 0:
            raise ValueError(
                f"need draft_length of at least 1 and growth above 0, got {draft_length} and {growth}"
            )
        super().__init__(draft_length)
        self._growth = growth

    def new_text(self, ids: list[int]) -> MatchedText:
        return MatchedText(ids, self._growth)


class SuffixAutomaton:
    """A growing text and all its substrings, in fewer than two states per token (Blumer et al., 1985).

    A state stands for substrings that end at the same places; its link leads to their longest suffix that
    ends at more. State 0 is the empty string.

    Args:
        ids: The text to begin with.

    Attributes:
        ids: The text so far.
    """

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self.ids: list[int] = []
        self._next: list[dict[int, int]] = [{}]  # state -> token -> state
        self._links = [-1]
        self._lengths = [0]  # of the longest substring
        self._ends = [0]  # index behind the earliest occurrence
        self._whole = 0  # state of the whole text
        self.extend(ids)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def match(self) -> tuple[int, int]:
        """Length of the longest suffix that occurred before, and the index behind its earliest occurrence.

        Both are 0 where the last token is new. The occurrence may overlap the suffix.
        """
        link = self._links[self._whole]
        return (self._lengths[link], self._ends[link]) if link > 0 else (0, 0)

    def extend(self, ids: Iterable[int]) -> None:
        """Append tokens."""
        for token in ids:
            self.ids.append(token)
            self._append(token)

    def _append(self, token: int) -> None:
        new = self._add({}, len(self.ids), len(self.ids))
        state = self._whole
        while state >= 0 and token not in self._next[state]:
            self._next[state][token] = new
            state = self._links[state]
        self._links[new] = 0 if state < 0 else self._ending_with(state, token)
        self._whole = new

    def _ending_with(self, state: int, token: int) -> int:
        """The state whose longest substring is that of `state` and `token`; split off where it is not."""
        found, length = self._next[state][token], self._lengths[state] + 1
        if self._lengths[found] == length:
            return found
        split = self._add(dict(self._next[found]), length, self._ends[found])
        self._links[split], self._links[found] = self._links[found], split
        while state >= 0 and self._next[state].get(token) == found:
            self._next[state][token] = split
            state = self._links[state]
        return split

    def _add(self, following: dict[int, int], length: int, end: int) -> int:
        self._next.append(following)
        self._links.append(-1)
        self._lengths.append(length)
        self._ends.append(end)
        return len(self._next) - 1


class MatchedText(SuffixAutomaton):
    """A text whose longest match earns a copy of what followed it.

    Args:
        ids: The text to begin with.
        growth: Tokens copied per matched token.
    """

    def __init__(self, ids: Iterable[int], growth: float) -> None:
        super().__init__(ids)
        self._growth = growth

    def continuation(self, limit: int) -> list[int]:
        """See `methods.lookup.copying.GrowingText.continuation`."""
        length, end = self.match
        return self.ids[end : end + min(limit, int(self._growth * length))]
