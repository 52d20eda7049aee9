"""Makes a model's `Placement`: positions and masks, in two ways at once for a model with two kinds of layers.

Shapes: S capacity in slots, D head width, rotary width <= D.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.runtime.families import DecoderConfig
from bench.runtime.rotary import RotaryRule
from bench.runtime.rows import Placement, Rows, plain_frequencies, rotary_tables


class AlternatingPlacement(Placement):
    """Places rows in two ways at once: its own, and that of the alternate layers.

    Args:
        alternate: Of the alternate layers; of the same capacity.

    The other arguments: see `Placement`.
    """

    def __init__(
        self,
        cos: Tensor,
        sin: Tensor,
        groups: int,
        window: int | None,
        rule: RotaryRule | None = None,
        *,
        alternate: Placement,
    ) -> None:
        super().__init__(cos, sin, groups, window, rule)
        self._alternate = alternate

    @property
    def follows_length(self) -> bool:
        """See `Placement.follows_length`."""
        return super().follows_length or self._alternate.follows_length

    def of(self, is_alternate: bool) -> Placement:
        """See `Placement.of`."""
        return self._alternate if is_alternate else self

    def begin(self, prompt_tokens: int) -> None:
        """See `Placement.begin`."""
        super().begin(prompt_tokens)
        self._alternate.begin(prompt_tokens)

    def chain(self, base: int, count: int) -> Rows:
        """See `Placement.chain`."""
        return replace(super().chain(base, count), alternate=self._alternate.chain(base, count))

    def chain_at(self, positions: Tensor, columns: int) -> Rows:
        """See `Placement.chain_at`."""
        other = self._alternate.chain_at(positions, columns)
        return replace(super().chain_at(positions, columns), alternate=other)

    def beside(self, base: int) -> Rows:
        """See `Placement.beside`."""
        return replace(super().beside(base), alternate=self._alternate.beside(base))

    def single(self, slot: int, position: int) -> Rows:
        """See `Placement.single`."""
        return replace(super().single(slot, position), alternate=self._alternate.single(slot, position))

    def tree(
        self, base: int, depths: Tensor, sees: Tensor, writes: int | None = None, *, first: int = 0
    ) -> Rows:
        """See `Placement.tree`."""
        other = self._alternate.tree(base, depths, sees, writes, first=first)
        return replace(super().tree(base, depths, sees, writes, first=first), alternate=other)


def make_placement(
    config: Any,  # noqa: ANN401
    shape: DecoderConfig,
    capacity: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Placement:
    """Positions and masks of a model.

    Args:
        config: The transformers configuration.
        shape: The decoder's view of it.
        capacity: Most tokens of a text (S).
        device: Of the tables.
        dtype: Of the tables.

    Raises:
        UserError: If the rotary embedding's settings cannot be used.
    """
    groups, place = shape.heads // shape.kv_heads, (capacity, device, dtype)
    cos, sin, rule = _tables(_rotary_config(config, shape.window), shape, *place)
    other = shape.alternate
    if other is None:
        return Placement(cos, sin, groups, shape.window, rule)
    if other.rotates:
        tables = _tables(_rotary_config(config, other.window), shape, *place)
    else:
        still = torch.zeros(capacity, 1, 0, device=device, dtype=dtype)
        tables = still, still, None
    alternate = Placement(*tables[:2], groups, other.window, tables[2])
    return AlternatingPlacement(cos, sin, groups, shape.window, rule, alternate=alternate)


def _rotary_config(config: Any, window: int | None) -> Any:  # noqa: ANN401
    """The configuration with the rotary settings of layers with this window, where they have their own."""
    kind = "full_attention" if window is None else "sliding_attention"
    if kind not in config.rope_parameters:
        return config
    own = copy(config)
    own.rope_parameters = config.rope_parameters[kind]
    return own


def _tables(
    config: Any,  # noqa: ANN401
    shape: DecoderConfig,
    capacity: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, RotaryRule | None]:
    """Cosines, sines and the rule that makes them; only an embedding scaled for long texts needs one."""
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        rule = RotaryRule(config, capacity, dtype, device)
        return *rule.tables(), rule
    width = int(shape.head_dim * rope.get("partial_rotary_factor", 1.0))
    cos, sin = rotary_tables(plain_frequencies(width, rope["rope_theta"]), capacity)
    return cos.to(device, dtype), sin.to(device, dtype), None
