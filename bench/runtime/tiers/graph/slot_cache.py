"""The cache of the graph tier: recorded passes write to slots that only the device knows.

A recorded pass must not contain a number from the host. Its rows therefore go to slots that a tensor names,
and attention always reads a fixed number of slots, of which a mask hides the invalid ones. The host still
keeps the number of valid slots: `KVCache.advance` moves the lengths that `KVCache.write` would have moved.

A hidden slot gets the weight zero but is still multiplied. If a model overflows and leaves a key or value
there that is not finite, later passes turn into NaN until the slot is overwritten.

Shapes: L layers, Hkv key/value heads, S capacity in slots, D head width, R rows, C columns (slots read).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from bench.runtime.cache import KVCache


class SlotCache(KVCache):
    """A `KVCache` that recorded passes can write to; other passes use it like any `KVCache`.

    After the capacity there is one more slot, the trash: padding rows write there, and no row reads it.
    """

    spare = 1
    _window: tuple[Tensor, int] | None = None

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
            return super().write(layer, base, rows)
        slots, columns = self._window
        store = self._stores[layer]
        both = rows.view(rows.shape[0], 2, store.shape[1], store.shape[3])  # [R, 2, Hkv, D]
        store.index_copy_(2, slots, both.permute(1, 2, 0, 3))
        keys, values = store.narrow(2, 0, columns).unbind()
        return keys, values
