"""The key/value store: preallocated once, addressed by slot, rolled back by moving a length.

A slot is written by one row of one pass. A chain's slots equal its positions; a tree's rows take consecutive
slots while their positions repeat, and `keep` moves an accepted path down to where a chain would have put it.

Shapes: L layers, Hkv key/value heads, S capacity in slots, D head width, R rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

import torch
from torch import Tensor

from bench.runtime.transfer import upload


class KVCache:
    """Keys and values of every layer, each layer with its own valid length.

    Layers may run ahead of others while a draft is under way (an early exit fills the shallow ones only).
    Reading past a layer's valid length is an error, so stale rows can never be attended to.

    Args:
        layers: Number of layers (L).
        kv_heads: Key/value heads (Hkv).
        capacity: Slots (S).
        head_dim: Head width (D).
        dtype: Of keys and values.
        device: Where they live.
    """

    spare: ClassVar[int] = 0
    """Slots behind the capacity."""

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.capacity = capacity
        shape = (layers, 2, kv_heads, capacity + self.spare, head_dim)
        self._block = torch.zeros(shape, dtype=dtype, device=device)
        self._stores = list(self._block.unbind())  # of each layer, [2, Hkv, S, D]
        self.lengths = [0] * layers

    @property
    def stores(self) -> list[Tensor]:
        """Keys and values of each layer, shape [2, Hkv, S, D]; only the valid slots mean anything."""
        return self._stores

    @property
    def length(self) -> int:
        """Valid slots of every layer; the layers must agree, as they do between rounds.

        Raises:
            RuntimeError: If some layers are ahead of others.
        """
        first = self.lengths[0]
        if any(length != first for length in self.lengths):
            raise RuntimeError(f"layers hold different lengths: {self.lengths}")
        return first

    @property
    def token_bytes(self) -> int:
        """Bytes one token occupies over all layers."""
        store = self._stores[0]
        return len(self._stores) * store.element_size() * 2 * store.shape[1] * store.shape[3]

    def write(self, layer: int, base: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Store rows at slots ``base ..`` of one layer and return all its valid keys and values.

        Args:
            layer: Layer index.
            base: First slot; must not leave a gap behind the valid slots.
            rows: Keys, then values, of every row, shape [R, 2 Hkv, D]; R may be 0 for rows that only read.

        Returns:
            Views of keys and values, each shape [Hkv, base + R, D].

        Raises:
            RuntimeError: If the slots would leave a gap or exceed the capacity.
        """
        count = rows.shape[0]
        end = base + count
        if base > self.lengths[layer] or end > self.capacity:
            raise self._misplaced(layer, base, end)
        store = self._stores[layer]
        if count:
            both = rows.view(count, 2, store.shape[1], store.shape[3])  # [R, 2, Hkv, D]
            store.narrow(2, base, count).copy_(both.permute(1, 2, 0, 3))
            self.lengths[layer] = end
        keys, values = store.narrow(2, 0, end).unbind()
        return keys, values

    def advance(self, layers: Iterable[int], base: int, count: int) -> None:
        """Take note that a pass writes `count` rows at slots ``base ..`` of these layers by itself.

        Raises:
            RuntimeError: As `KVCache.write`.
        """
        end = base + count
        for layer in layers:
            if base > self.lengths[layer] or end > self.capacity:
                raise self._misplaced(layer, base, end)
            if count:
                self.lengths[layer] = end

    def truncate(self, length: int) -> None:
        """Forget every slot from `length` on, in the layers that have got so far."""
        self.lengths = [min(one, length) for one in self.lengths]

    def keep(self, base: int, path: Tensor, layers: range | None = None) -> None:
        """Compact an accepted tree path: slots ``base + path[i]`` move to ``base + i``, the rest go.

        All layers move in two kernels.

        Args:
            base: Slot of the tree's first row.
            path: Row indices of the accepted path in order, strictly increasing, shape [A], int64.
            layers: Layers to compact; all by default.

        Raises:
            RuntimeError: If a layer holds fewer rows than the path has; none is moved then.
        """
        end = base + path.numel()
        chosen = range(len(self._stores)) if layers is None else layers
        self._require_rows(chosen, base, end)
        block = self._block[chosen.start : chosen.stop : chosen.step]  # [l, 2, Hkv, S, D]
        block[:, :, :, base:end] = block.index_select(3, upload(base + path, block.device))
        for layer in chosen:
            self.lengths[layer] = end

    def sibling(self, layers: int, capacity: int) -> Self:
        """An empty cache of the same kind for other layers of the same heads."""
        store = self._stores[0]
        return type(self)(layers, store.shape[1], capacity, store.shape[3], store.dtype, store.device)

    def _require_rows(self, layers: range, base: int, end: int) -> None:
        if any(self.lengths[layer] < end for layer in layers):
            raise RuntimeError(f"cannot keep slots {base}..{end - 1} of layers that hold {self.lengths}")

    def _misplaced(self, layer: int, base: int, end: int) -> RuntimeError:
        return RuntimeError(
            f"layer {layer}: cannot write slots {base}..{end - 1} behind {self.lengths[layer]} valid "
            f"ones in a cache of {self.capacity}"
        )
