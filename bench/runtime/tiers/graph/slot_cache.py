"""The cache of the graph tier: recorded passes write to slots that only the device knows.

A recorded pass must not contain a number from the host. Its rows therefore go to slots that a tensor names,
and attention always reads a fixed number of slots, of which a mask hides the invalid ones. The host still
keeps the number of valid slots: `KVCache.advance` moves the lengths that `KVCache.write` would have moved.

A hidden slot gets the weight zero but is still multiplied, and zero times a key or value that is not finite
is NaN. So the slots after a layer's valid ones are set to zero before a recorded pass reads that layer.

Shapes: L layers, Hkv key/value heads, S capacity in slots, D head width, R rows, C columns (slots read).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from torch import Tensor

from bench.runtime.cache import KVCache


class SlotCache(KVCache):
    """A `KVCache` that recorded passes can write to; other passes use it like any `KVCache`.

    After the capacity there is one more slot, the trash: padding rows write there, and no row reads it.
    """

    spare = 1
    _window: tuple[Tensor, int] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - see `KVCache`
        super().__init__(*args, **kwargs)
        self._written = [0] * len(self.lengths)  # of each layer: the slots from here on hold zeros

    @property
    def trash(self) -> int:
        """The slot that padding rows write to."""
        return self.capacity

    @contextmanager
    def window(self, slots: Tensor, columns: int) -> Iterator[None]:
        """Inside, `write` uses the given slots and leaves the lengths alone.

        Args:
            slots: Where each row of a pass goes, shape [R], int64.
            columns: Slots that attention reads, from the first on (C).
        """
        self._window = slots, columns
        try:
            yield
        finally:
            self._window = None

    def write(self, layer: int, base: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache.write`; inside a `window`, keys and values have shape [Hkv, C, D]."""
        if self._window is None:
            both_kinds = super().write(layer, base, rows)
            self._written[layer] = max(self._written[layer], self.lengths[layer])
            return both_kinds
        slots, columns = self._window
        store = self._stores[layer]
        both = rows.view(rows.shape[0], 2, store.shape[1], store.shape[3])  # [R, 2, Hkv, D]
        store.index_copy_(2, slots, both.permute(1, 2, 0, 3))
        keys, values = store.narrow(2, 0, columns).unbind()
        return keys, values

    def advance(self, layers: Iterable[int], base: int, count: int) -> None:
        """See `KVCache.advance`; sets the slots after the valid ones of these layers to zero."""
        reading = list(layers)
        super().advance(reading, base, count)
        outdated = [layer for layer in reading if self._written[layer] > self.lengths[layer]]
        spans = ((self.lengths[layer], self._written[layer], layer - i) for i, layer in enumerate(outdated))
        for (first, end, _), group in groupby(zip(spans, outdated, strict=True), key=lambda pair: pair[0]):
            neighbours = [layer for _, layer in group]  # one kernel for all of them
            self._block[neighbours[0] : neighbours[-1] + 1, :, :, first:end] = 0
        for layer in reading:
            self._written[layer] = self.lengths[layer]

    def mark_written(self) -> None:
        """Note that any slot may have been written, as recording passes does."""
        self._written = [self.capacity] * len(self._written)
