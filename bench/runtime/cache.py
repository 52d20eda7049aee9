"""The key/value store: allocated once, addressed by slot, rolled back by shortening a length.

Each row of a pass writes one slot per layer. The slots of a chain equal its positions. The rows of a tree
take consecutive slots while their positions repeat; `KVCache.keep` then moves the accepted path to the slots
that a chain would have used.

Shapes: L layers, Hkv key/value heads, S capacity in slots, D head width, R rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from bench.runtime.transfer import upload

if TYPE_CHECKING:
    from bench.runtime.several_devices import Part


class KVCache:
    """Keys and values of every layer, each layer with its own number of valid slots.

    During a draft some layers may be ahead of others: an early exit fills only the shallow ones. Reading past
    a layer's valid slots is an error, so outdated rows can never be attended to.

    Args:
        layers: Number of layers (L).
        kv_heads: Key/value heads (Hkv).
        capacity: Slots (S).
        head_dim: Head width (D).
        dtype: Of keys and values.
        device: Where they are stored.

    Attributes:
        lengths: Valid slots of each layer, L numbers.
    """

    spare: ClassVar[int] = 0
    """Slots allocated beyond the capacity."""
    parts: tuple[Part, ...] = ()
    """Which layers lie on which device; empty where all lie on one."""

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

    @classmethod
    def like(cls, other: KVCache, layers: int, capacity: int) -> Self:
        """An empty cache for other layers, with heads and precision of `other`, on its first device."""
        store = other.stores[0]
        return cls(layers, store.shape[1], capacity, store.shape[3], store.dtype, store.device)

    @property
    def stores(self) -> list[Tensor]:
        """Keys and values of each layer, shape [2, Hkv, S + spare, D]; only valid slots mean anything."""
        return self._stores

    @property
    def devices(self) -> list[torch.device]:
        """Where the layers lie, each device once, the first layer's first."""
        return list(dict.fromkeys(store.device for store in self._stores))

    @property
    def length(self) -> int:
        """Valid slots, the same number in every layer, as it is between rounds.

        Raises:
            RuntimeError: If some layers are ahead of others.
        """
        first = self.lengths[0]
        if any(length != first for length in self.lengths):
            raise RuntimeError(f"layers hold different lengths: {self.lengths}")
        return first

    @property
    def token_bytes(self) -> int:
        """Bytes that one token occupies over all layers."""
        store = self._stores[0]
        return len(self._stores) * store.element_size() * 2 * store.shape[1] * store.shape[3]

    def write(self, layer: int, base: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Store rows at slots ``base ..`` of one layer and return all its valid keys and values.

        Writing below the layer's length discards the slots after the new rows.

        Args:
            layer: Layer index.
            base: First slot to write, at most the layer's length: no slot may be left out.
            rows: Keys, then values, of every row, shape [R, 2 Hkv, D]; R is 0 for a pass that only reads.

        Returns:
            Views of keys and values, each shape [Hkv, base + R, D].

        Raises:
            RuntimeError: If the rows would leave a gap or exceed the capacity.
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
        """Move the lengths for a pass that writes `count` rows at slots ``base ..`` of these layers itself.

        Raises:
            RuntimeError: If the rows would leave a gap or exceed the capacity.
        """
        end = base + count
        for layer in layers:
            if base > self.lengths[layer] or end > self.capacity:
                raise self._misplaced(layer, base, end)
            if count:
                self.lengths[layer] = end

    def truncate(self, length: int) -> None:
        """Discard all slots from `length` on; layers that hold fewer stay as they are."""
        self.lengths = [min(held, length) for held in self.lengths]

    def keep(self, base: int, path: Tensor, layers: range | None = None) -> None:
        """Keep an accepted tree path: slot ``base + path[i]`` moves to ``base + i``, all later slots go.

        All layers move in two kernels.

        Args:
            base: Slot of the tree's first row.
            path: Rows of the accepted path, counted from that row, strictly increasing, shape [A], int64.
            layers: Layers to change; all by default.

        Raises:
            RuntimeError: If a layer holds fewer rows than the path has; no layer is changed then.
        """
        end = base + path.numel()
        chosen = range(len(self._stores)) if layers is None else layers
        if any(self.lengths[layer] < end for layer in chosen):
            raise RuntimeError(f"cannot keep slots {base}..{end - 1} of layers that hold {self.lengths}")
        self._move(base, path, chosen)
        for layer in chosen:
            self.lengths[layer] = end

    def _move(self, base: int, path: Tensor, layers: range) -> None:
        """Copy slots ``base + path[i]`` of these layers to ``base + i``."""
        block = self._block[layers.start : layers.stop : layers.step]  # [l, 2, Hkv, S, D]
        moved = block.index_select(3, upload(base + path, block.device))
        block[:, :, :, base : base + path.numel()] = moved

    def _misplaced(self, layer: int, base: int, end: int) -> RuntimeError:
        return RuntimeError(
            f"layer {layer}: cannot write slots {base}..{end - 1} after {self.lengths[layer]} valid "
            f"ones in a cache of {self.capacity}"
        )
