"""The cache of recorded passes: slots that only the device knows, and one block of memory for all layers.

A recorded pass must not hold a number of the host, so its rows go to slots that a tensor names, and attention
reads a fixed number of slots, of which a mask hides what is not valid. Which slots are valid stays the host's
knowledge: `advance` moves the lengths that `KVCache.write` would have moved.

Shapes: L layers, Hkv key/value heads, S capacity in slots, D head width, R rows, C columns (slots read).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bench.runtime.cache import KVCache
from bench.runtime.transfer import upload


class SlotCache(KVCache):
    """A `KVCache` that recorded passes can write to; any other pass uses it as it uses a `KVCache`.

    Behind the capacity lies one more slot, the trash: padding rows write there, and nobody reads it.
    """

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

    def advance(self, layers: Iterable[int], base: int, count: int) -> None:
        """Take note that a recorded pass writes `count` rows at slots ``base ..`` of these layers.

        Raises:
            RuntimeError: As `KVCache.write`.
        """
        end = base + count
        for layer in layers:
            if base > self.lengths[layer] or end > self.capacity:
                raise self._misplaced(layer, base, end)
            if count:
                self.lengths[layer] = end

    def keep(self, base: int, path: Tensor, layers: range | None = None) -> None:
        """See `KVCache.keep`; all layers move in two kernels."""
        end = base + path.numel()
        chosen = range(len(self._stores)) if layers is None else layers
        self._require_rows(chosen, base, end)
        block = self._block[chosen.start : chosen.stop : chosen.step]  # [l, 2, Hkv, S + 1, D]
        block[:, :, :, base:end] = block.index_select(3, upload(base + path, self._block.device))
        for layer in chosen:
            self.lengths[layer] = end

    def _allocate(
        self, layers: int, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
    ) -> list[Tensor]:
        kinds, heads, capacity, width = shape
        self._block = torch.zeros((layers, kinds, heads, capacity + 1, width), dtype=dtype, device=device)
        return list(self._block.unbind())
