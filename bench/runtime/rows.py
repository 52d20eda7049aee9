"""Where the rows of one pass stand: the slots they write, their positions, and what they may see.

A row is one query vector. `Rows` is made once per pass and serves every layer of it.

Shapes: R rows, W <= R of them written to the cache, N = base + W visible slots, G query heads per key/value
head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UserError

_TEMPLATE_ROWS = 64


@dataclass(frozen=True, slots=True)
class Rows:
    """The placement of one pass.

    Args:
        base: First slot written.
        writes: Rows, from the first on, whose keys and values are stored (W); the others only read.
        cos: Rotary cosines, shape [R, 1, rotary].
        sin: Rotary sines, shape [R, 1, rotary].
        mask: Additive attention mask, shape [G * R, N]; None if every row sees every slot.
        is_causal: The rows are a whole sequence from slot 0 on.
        is_chain: They are consecutive tokens, their slots equal their positions, and each sees all before it
            (but for a sliding window): `base` says it all.
    """

    base: int
    writes: int
    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    is_causal: bool = False
    is_chain: bool = False


class Placement:
    """Makes `Rows` for chains and trees over one cache.

    Args:
        cos: Rotary table, shape [S, 1, rotary]; its length is the capacity.
        sin: Likewise.
        groups: Query heads per key/value head (G).
        window: Sliding-window length, or None.
    """

    def __init__(self, cos: Tensor, sin: Tensor, groups: int, window: int | None) -> None:
        self._cos, self._sin = cos, sin
        self._groups, self._window = groups, window
        self.capacity = cos.shape[0]
        # Row r may see the columns up to capacity + r: every chain's mask is a window of this one table.
        columns = torch.arange(self.capacity + _TEMPLATE_ROWS, device=cos.device)
        limits = self.capacity + torch.arange(_TEMPLATE_ROWS, device=cos.device)[:, None]
        self._template = self._additive(columns <= limits)

    @property
    def rotary(self) -> int:
        """Channels of a head that are rotated."""
        return self._cos.shape[-1]

    def chain(self, base: int, count: int) -> Rows:
        """`count` consecutive tokens at slots and positions ``base ..``, each seeing all before it.

        Raises:
            UserError: If they do not fit into the cache.
        """
        end = base + count
        self.check(end)
        cos, sin = self._cos[base:end], self._sin[base:end]
        if self._window is not None and end > self._window:
            return Rows(base, count, cos, sin, self._long_mask(base, end), is_chain=True)
        if count == 1:
            return Rows(base, 1, cos, sin, None, is_chain=True)
        if base == 0:
            return Rows(0, count, cos, sin, None, is_causal=True, is_chain=True)
        if count > _TEMPLATE_ROWS:
            return Rows(base, count, cos, sin, self._long_mask(base, end), is_chain=True)
        mask = self._template[:count, self.capacity - base : self.capacity + count]
        return Rows(base, count, cos, sin, self._tile(mask), is_chain=True)

    def chain_at(self, positions: Tensor, columns: int) -> Rows:
        """A chain whose positions [R] only the device knows; its mask covers the first `columns` slots.

        Positions past the capacity are those of padding rows, and rotate as the last one.
        """
        slots = torch.arange(columns, device=positions.device)
        mask = self._tile(self._chain_mask(positions, slots))
        near = positions.clamp_max(self.capacity - 1)
        cos, sin = self._cos.index_select(0, near), self._sin.index_select(0, near)
        return Rows(0, positions.numel(), cos, sin, mask, is_chain=True)

    def beside(self, base: int) -> Rows:
        """Two rows of the one token at slot and position `base`: the first is written, the other only reads.

        Both see all before the token, and the token's written row.

        Raises:
            UserError: If they do not fit into the cache.
        """
        one = self.chain(base, 1)
        mask = None if one.mask is None else one.mask.repeat(2, 1)
        return replace(one, mask=mask, is_chain=False)

    def single(self, slot: int, position: int) -> Rows:
        """One token that sees every slot before its own; its position may run ahead of its slot.

        Raises:
            UserError: If it does not fit into the cache.
        """
        self.check(max(slot, position) + 1)
        return Rows(slot, 1, self._cos[position : position + 1], self._sin[position : position + 1], None)

    def tree(
        self, base: int, depths: Tensor, sees: Tensor, writes: int | None = None, *, first: int = 0
    ) -> Rows:
        """Rows with positions and visibility of their own behind `base` committed slots.

        Args:
            base: Committed slots; every row sees all of them (but for a sliding window).
            depths: Position of each row relative to `base`, shape [R], int64.
            sees: ``sees[r, w]`` says whether row r sees written row w, shape [R, W], bool.
            writes: Written rows (W); all by default.
            first: The rows before this one were written by earlier passes: this pass runs the others.

        Raises:
            UserError: If they do not fit into the cache.
            ValueError: If `sees` does not cover the rows.
        """
        count = depths.numel()
        writes = count if writes is None else writes
        if tuple(sees.shape) != (count, writes):
            raise ValueError(f"sees must have shape {(count, writes)}, got {tuple(sees.shape)}")
        self.check(base + writes)
        slots = base + depths[:writes]  # positions of the written rows
        positions, sees = base + depths[first:], sees[first:]
        if self._window is None:
            mask = F.pad(self._additive(sees), (base, 0))
        else:
            slots = torch.cat([torch.arange(base, device=depths.device), slots])
            near = slots[None, :] > positions[:, None] - self._window
            mask = self._additive(F.pad(sees, (base, 0), value=True) & near)
        cos, sin = self._cos[positions], self._sin[positions]
        return Rows(base + first, writes - first, cos, sin, self._tile(mask))

    def rotation(self, base: int, count: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions ``base .. base + count - 1``, each shape [count, 1, rotary]."""
        return self._cos[base : base + count], self._sin[base : base + count]

    def _long_mask(self, base: int, end: int) -> Tensor:
        positions = torch.arange(end, device=self._cos.device)
        return self._tile(self._chain_mask(positions[base:], positions))

    def _chain_mask(self, queries: Tensor, slots: Tensor) -> Tensor:
        visible = slots[None, :] <= queries[:, None]
        if self._window is not None:
            visible &= slots[None, :] > queries[:, None] - self._window
        return self._additive(visible)

    def _additive(self, visible: Tensor) -> Tensor:
        mask = torch.zeros(visible.shape, dtype=self._cos.dtype, device=self._cos.device)
        return mask.masked_fill_(~visible, float("-inf"))

    def _tile(self, mask: Tensor) -> Tensor:
        """Repeat the rows once per query head of a group, the layout of folded attention."""
        return mask if self._groups == 1 else mask.repeat(self._groups, 1)

    def check(self, end: int) -> None:
        """Refuse a pass that ends at slot or position `end`.

        Raises:
            UserError: If the cache does not reach so far.
        """
        if end > self.capacity:
            raise UserError(
                f"the sequence needs {end} positions, the cache holds {self.capacity}",
                "shorten the prompt, lower max_new_tokens, or raise runtime.max_length (at most the context)",
            )
