"""Which ranges of layers are recorded whole: those used most, since every recording takes time and memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from bench.runtime.decoder import NO_SKIP
from bench.runtime.tiers.graph.buckets import Bucket, Span

MOST_SPANS = 8
"""Ranges of layers that get recordings of their own; passes through others are replayed by sub-layer."""
SETTLED_USES = 4
"""Passes after which a set of skipped sub-layers counts as one that stays: a search tries each set once."""


class Spans:
    """Counts passes by range, and says which ranges are recorded whole.

    While warming up a range is admitted at its first pass, or, if it skips sub-layers, once it has proved to
    stay. `settle` then keeps those that were used most.
    """

    def __init__(self) -> None:
        self._whole: set[Span] = set()
        self._uses: Counter[Bucket] = Counter()  # passes so far; columns, which grow with the text, are 1
        self._is_settled = False

    def __contains__(self, span: Span) -> bool:
        """Whether passes through this range are recorded whole."""
        return span in self._whole

    def use(self, bucket: Bucket) -> None:
        """Count a pass; admit its range if it qualifies and there is room."""
        span, key = bucket.span, bucket._replace(columns=1)
        self._uses[key] += 1
        if span in self._whole or len(self._whole) >= MOST_SPANS:
            return
        if span.skip == NO_SKIP or (not self._is_settled and self._uses[key] >= SETTLED_USES):
            self._whole.add(span)

    def settle(self) -> None:
        """Keep the ranges that were used most; later ones that skip sub-layers are not admitted."""
        uses: Counter[Span] = Counter()
        for bucket, count in self._uses.items():
            uses[bucket.span] += count
        ranked = uses.most_common()
        staying = (span for span, count in ranked if span.skip == NO_SKIP or count >= SETTLED_USES)
        self._whole = set(islice(staying, MOST_SPANS))
        self._is_settled = True

    def buckets(self) -> Iterator[Bucket]:
        """Buckets that passes through the kept ranges have used, each with the least columns."""
        return (bucket for bucket in self._uses if bucket.span in self._whole)
