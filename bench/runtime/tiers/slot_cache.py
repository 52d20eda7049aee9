"""The cache of recorded passes: slots that only the device knows.

A recorded pass must not hold a number of the host, so its rows go to slots that a tensor names, and attention
reads a fixed number of slots, of which a mask hides what is not valid. Which slots are valid stays the host's
knowledge: `advance` moves the lengths that `KVCache.write` would have moved.

Shapes: L layers, Hkv key/value heads, S capacity in slots, D head width, R rows, C columns (slots read).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from bench.runtime.cache import KVCache


class SlotCache(KVCache):
    """A `KVCache` that recorded passes can write to; any other pass uses it as it uses a `KVCache`.

    Behind the capacity lies one more slot, the trash: padding rows write there, and nobody reads it.
    """

    spare = 1
    _window: tuple[Tensor, int] | None = None

    @property
    def trash(self) -> int:
        """The slot that padding rows write to."""
        return self.capacity

    @contextmanager
    def window(self, slots: Tensor, columns: int) -> Iterator[None]:
        """Inside, every layer's rows go to `slots` [R] and its first C slots are read; lengths stay."""
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
