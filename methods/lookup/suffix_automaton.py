"""SAM-Decoding, arXiv 2411.10666: drafts copied from the longest earlier match of the text's end.

An online suffix automaton over prompt and output gives the longest suffix that occurred before, of any
length, in amortised constant time per token; what followed its earliest occurrence is the draft. A longer
match gets a longer draft. Settings of the authors' code for the automaton alone: up to 4 tokens per matched
token, at most 39.

Differs from the authors' code in:
- only the text is searched: no automaton over a corpus and no second drafter for short matches, so results
  compare with their row without either; Spec-Bench's row has EAGLE-2 as the second drafter;
- the match is read from the automaton (the suffix link of the whole text). They track it separately, where it
  may be out of date after a state was split;
- where fewer tokens follow the match than may be copied, the copy ends with the text; they look for a shorter
  match with more tokens after it, and copy one token less from the end of the text;
- under sampling a copied token counts as drafted with certainty, as for every lookup here.
"""

from __future__ import annotations

from collections.abc import Iterable

from methods.lookup.copying import CopyingMethod


class SamDecoding(CopyingMethod):
    """Chain speculation with copies of what followed the longest match.

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

    A state stands for all substrings that end at the same set of places. Its link leads to the state of their
    longest suffix that also ends elsewhere. State 0 is the empty string.

    Args:
        ids: Start of the text.

    Attributes:
        ids: The text so far.
    """

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self.ids: list[int] = []
        self._next: list[dict[int, int]] = [{}]  # state -> token -> state
        self._links = [-1]
        self._lengths = [0]  # of the longest substring
        self._ends = [0]  # index after the earliest occurrence
        self._whole = 0  # state of the whole text
        self.extend(ids)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def match(self) -> tuple[int, int]:
        """Length of the longest suffix that occurred before, and the index after its earliest occurrence.

        Both are 0 if the last token is new. The occurrence may overlap the suffix.
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
        """The state whose longest substring is that of `state` and `token`, split off if necessary."""
        successor, length = self._next[state][token], self._lengths[state] + 1
        if self._lengths[successor] == length:
            return successor
        split = self._add(dict(self._next[successor]), length, self._ends[successor])
        self._links[split], self._links[successor] = self._links[successor], split
        while state >= 0 and self._next[state].get(token) == successor:
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
    """A text that drafts what followed its longest match, more tokens for a longer match.

    Args:
        ids: Start of the text.
        growth: Tokens copied per matched token.
    """

    def __init__(self, ids: Iterable[int], growth: float) -> None:
        super().__init__(ids)
        self._growth = growth

    def continuation(self, limit: int) -> list[int]:
        """See `methods.lookup.copying.GrowingText.continuation`."""
        length, end = self.match
        return self.ids[end : end + min(limit, int(self._growth * length))]
