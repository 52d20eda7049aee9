"""Where the rows of one pass stand: the slots they write, their rotary positions, and what they may see.

A row is one query vector. `Placement` makes one `Rows` per pass, and it serves every layer of the pass.

Shapes: R rows, W <= R of them written to the cache, N = base + W visible slots, G query heads per key/value
head, S capacity in slots, D head width, rotary width <= D.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UserError

if TYPE_CHECKING:
    from bench.runtime.rotary import RotaryRule

_TEMPLATE_ROWS = 64


@dataclass(frozen=True, slots=True)
class Rows:
    """The placement of one pass.

    Args:
        base: First slot written; all slots before it are visible.
        writes: How many rows, from the first on, store keys and values (W); the others only read.
        cos: Rotary cosines, shape [R, 1, rotary].
        sin: Rotary sines, shape [R, 1, rotary].
        mask: Additive attention mask, shape [G * R, N]; None if every row sees every slot.
        is_causal: The rows are a whole sequence from slot 0 on, each seeing itself and the rows before it.
        is_chain: The rows are consecutive tokens, their slots equal their positions, and each sees all tokens
            before it (in a sliding window, the nearest of them), so that `base` determines positions and
            mask.
        alternate: The same rows as the model's alternate layers place them; None where all layers are alike.
    """

    base: int
    writes: int
    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    is_causal: bool = False
    is_chain: bool = False
    alternate: Rows | None = None

    def of(self, is_alternate: bool) -> Rows:
        """The rows as a layer places them."""
        return self.alternate if is_alternate and self.alternate is not None else self


class Placement:
    """Makes the `Rows` of chains and trees for one capacity.

    A sliding window, where the model has one, limits what every row sees.

    Args:
        cos: Rotary table, shape [S, 1, rotary]; its length is the capacity.
        sin: Likewise.
        groups: Query heads per key/value head (G).
        window: Sliding-window length in tokens, or None.
        rule: Makes the tables anew where they depend on the text's length; None where they never do.
    """

    def __init__(
        self, cos: Tensor, sin: Tensor, groups: int, window: int | None, rule: RotaryRule | None = None
    ) -> None:
        self._cos, self._sin = cos, sin
        self._rule, self._stage = rule, 0
        self._groups, self._window = groups, window
        self.capacity = cos.shape[0]
        # Row r may see the columns up to capacity + r, so every chain's mask is a part of this one table.
        columns = torch.arange(self.capacity + _TEMPLATE_ROWS, device=cos.device)
        limits = self.capacity + torch.arange(_TEMPLATE_ROWS, device=cos.device)[:, None]
        self._template = self._additive(columns <= limits)

    @property
    def window(self) -> int | None:
        """Sliding-window length in tokens, or None."""
        return self._window

    def of(self, is_alternate: bool) -> Placement:
        """What places the rows of a layer."""
        return self

    @property
    def follows_length(self) -> bool:
        """Whether the rotary tables of a text that fills the capacity differ from those of a short one."""
        return self._rule is not None and self._rule.stage(self.capacity) != 0

    def begin(self, prompt_tokens: int) -> None:
        """Take the rotary tables of a text that begins with a prompt of this length.

        They change in place, so that recorded passes read them too.
        """
        if self._rule is None:
            return
        stage = self._rule.stage(prompt_tokens)
        if stage != self._stage:
            cos, sin = self._rule.tables(stage)
            self._cos.copy_(cos)
            self._sin.copy_(sin)
            self._stage = stage

    def chain(self, base: int, count: int) -> Rows:
        """Consecutive tokens, each of which sees all tokens before it.

        Args:
            base: Slot and position of the first one.
            count: Tokens (R).

        Raises:
            UserError: If they exceed the capacity.
        """
        end = base + count
        self.check(end, base)
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
        """A chain whose positions [R] are known on the device only; its mask covers the first `columns`
        slots.

        Positions at or above the capacity belong to padding rows; they are rotated as the last position.
        """
        slots = torch.arange(columns, device=positions.device)
        mask = self._tile(self._chain_mask(positions, slots))
        near = positions.clamp_max(self.capacity - 1)
        cos, sin = self._cos.index_select(0, near), self._sin.index_select(0, near)
        return Rows(0, positions.numel(), cos, sin, mask, is_chain=True)

    def beside(self, base: int) -> Rows:
        """Two rows for the token at slot and position `base`: the first is written, the second only reads.

        Both see all tokens before it and the written row.

        Raises:
            UserError: If the token exceeds the capacity.
        """
        single = self.chain(base, 1)
        mask = None if single.mask is None else single.mask.repeat(2, 1)
        return replace(single, mask=mask, is_chain=False)

    def single(self, slot: int, position: int) -> Rows:
        """One token that sees every slot before its own; its position may be higher than its slot.

        Raises:
            UserError: If slot or position exceeds the capacity.
        """
        self.check(max(slot, position) + 1, position)
        return Rows(slot, 1, self._cos[position : position + 1], self._sin[position : position + 1], None)

    def tree(
        self, base: int, depths: Tensor, sees: Tensor, writes: int | None = None, *, first: int = 0
    ) -> Rows:
        """Rows that follow `base` committed slots, each with its own position and visibility.

        Args:
            base: Committed slots; every row sees all of them.
            depths: Position of each row relative to `base`, shape [R], int64.
            sees: ``sees[r, w]`` says whether row r sees written row w, shape [R, W], bool.
            writes: Written rows (W); all by default.
            first: Earlier passes wrote the rows before this one; this pass runs the rest.

        Raises:
            UserError: If the written rows exceed the capacity.
            ValueError: If `sees` does not have shape [R, W].
        """
        count = depths.numel()
        writes = count if writes is None else writes
        if tuple(sees.shape) != (count, writes):
            raise ValueError(f"sees must have shape {(count, writes)}, got {tuple(sees.shape)}")
        self.check(base + writes, base)
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

    def check(self, end: int, base: int = 0) -> None:
        """Refuse a pass that needs `end` slots or positions, after `base` tokens of the text.

        Raises:
            UserError: If that exceeds the capacity, or the text has outgrown its rotary tables.
        """
        if self._rule is not None and base:
            self._rule.check(self._stage, base)
        if end > self.capacity:
            raise UserError(
                f"the sequence needs {end} positions, the cache holds {self.capacity}",
                "shorten the prompt, lower max_new_tokens, or raise runtime.max_length (at most the context)",
            )


def plain_frequencies(width: int, theta: float) -> Tensor:
    """Angle per position of every pair of the `width` rotated channels, shape [width / 2], on the CPU."""
    return 1.0 / theta ** (torch.arange(0, width, 2, device="cpu").float() / width)


def rotary_tables(
    frequencies: Tensor, capacity: int, factor: float = 1.0, kind: str = "default"
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of all positions, each shape [S, 1, rotary].

    The sine carries the sign of the rotation's first half, so that rotating x is
    ``x * cos + roll(x, rotary / 2) * sin``. Under partial rotary the tables are narrower than a head.

    Args:
        frequencies: Angle per position, shape [rotary / 2], or [S, rotary / 2] where positions differ.
        capacity: Positions (S).
        factor: Multiplies cosines and sines.
        kind: The checkpoint's ``rope_type``, for messages.

    Raises:
        UserError: If an angle is not finite.
    """
    angles = torch.arange(capacity, dtype=torch.float32, device="cpu")[:, None] * frequencies
    cos, sin = angles.cos() * factor, angles.sin() * factor
    if not bool(cos.isfinite().all() & sin.isfinite().all()):
        raise UserError(
            f"the rotary embedding's settings ({kind}) give angles that are not finite",
            "use the checkpoint's own config.json, as its authors published it",
        )
    return torch.cat([cos, cos], dim=-1)[:, None], torch.cat([-sin, sin], dim=-1)[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Rotate heads by their positions; channels past the rotary width stay, all of them at width 0.

    Args:
        x: Heads, shape [R, heads, D].
        cos: Rows of the table, shape [R, 1, rotary].
        sin: Likewise.
        out: Where to write the result; may be `x`.
    """
    width = cos.shape[-1]
    if width == 0:
        return x if out is None else out.copy_(x)
    if width == x.shape[-1]:
        return torch.addcmul(x * cos, x.roll(width // 2, -1), sin, out=out)
    if out is not None:
        return out.copy_(rotate(x, cos, sin))
    turned, kept = x[..., :width], x[..., width:]
    return torch.cat([torch.addcmul(turned * cos, turned.roll(width // 2, -1), sin), kept], dim=-1)
