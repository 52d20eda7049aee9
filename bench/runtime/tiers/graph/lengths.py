"""Recorded chains that attend by their length, without a mask: the Flash kernel reads it on the device.

A recorded pass reads a fixed number of slots. A mask over them serves every pass, trees too, but rules out
the Flash kernel. That kernel takes, for sequences that lie one after another, how many rows and how many
slots each has, as numbers on the device. A chain is one such sequence: of the first ``base + R`` slots its
row i sees those up to ``base + i``, since the kernel aligns its triangle with the last row and the last
slot. Padding rows are a second sequence, which has no slots; its rows become zero.

It serves chains in half precision without a sliding window, on newer GPUs alone (`why_masked`). It has never
run on a GPU: `bench.runtime.tiers.graph.length_check` and `bench.runtime.tier_choice` compare it with the
mask on the GPU at hand before it is used.

Shapes: R rows of a pass, B >= R rows of its recording, C columns (slots read), H query heads, Hkv key/value
heads, D head width, Q sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.rows import Placement, Rows
from bench.runtime.tiers.graph.sizes import row_size

ChainAttention = Literal["masked", "lengths"]
"""How recorded chains attend: under a mask over all columns, or by their length."""
HALF_PRECISIONS = (torch.float16, torch.bfloat16)
_WIDEST_HEAD, _HEAD_STEP = 256, 8
_LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Rows and slots of sequences that lie one after another, on the device, int32.

    Args:
        rows: First row of each sequence and the end of the last, shape [Q + 1].
        slots: Likewise of slots: the room of each.
        used: Slots that hold something, from the first of each room on, shape [Q].
    """

    rows: Tensor
    slots: Tensor
    used: Tensor


@dataclass(frozen=True, slots=True)
class LengthRows(Rows):
    """A chain that is placed by its length; it has no mask.

    Args:
        lengths: How far its rows see; always given.

    The other arguments: see `Rows`.
    """

    lengths: Lengths | None = None


class LengthDecoder(Decoder):
    """A `Decoder` whose recorded chains may attend by their length.

    Attributes:
        attention: How they do.
    """

    attention: ChainAttention = "masked"

    def chain_rows(self, positions: Tensor, columns: int, writes: Tensor | None = None) -> Rows:
        """A recorded chain, whose positions [B] only the device knows; see `length_rows`."""
        if self.attention == "masked":
            return self.placement.chain_at(positions, columns)
        return length_rows(self.placement, positions, columns, writes)

    def _read_slots(
        self, queries: Tensor, keys: Tensor, values: Tensor, rows: Rows, scale: float | None
    ) -> Tensor:
        if isinstance(rows, LengthRows) and rows.lengths is not None:
            return attend_by_length(queries, keys, values, rows.lengths, scale)
        return super()._read_slots(queries, keys, values, rows, scale)


def length_rows(
    placement: Placement, positions: Tensor, columns: int, writes: Tensor | None = None
) -> LengthRows:
    """Rows of a chain whose positions only the device knows; they attend by length.

    Args:
        placement: Of the model.
        positions: Consecutive, shape [B]; those of padding rows may exceed the capacity.
        columns: Slots that attention may read (C).
        writes: How many rows are no padding (R), shape [1]; None where the recording has none.
    """
    lengths = chain_lengths(positions, columns, writes)
    other = placement.of(is_alternate=True)
    alternate = None if other is placement else _placed(other, positions, lengths, None)
    return _placed(placement, positions, lengths, alternate)


def _placed(placement: Placement, positions: Tensor, lengths: Lengths, alternate: Rows | None) -> LengthRows:
    near = positions.clamp_max(placement.capacity - 1)
    cos, sin = (table.index_select(0, near) for table in placement.rotation(0, placement.capacity))
    return LengthRows(
        0, positions.numel(), cos, sin, None, is_chain=True, alternate=alternate, lengths=lengths
    )


def may_have_padding(rows: int) -> bool:
    """Whether a recording of so many rows (B) also serves passes of fewer."""
    return rows > 1 and row_size(rows - 1) == rows


def chain_lengths(positions: Tensor, columns: int, writes: Tensor | None = None) -> Lengths:
    """The lengths of a chain, from numbers on the device alone; for the arguments see `length_rows`."""
    count = positions.numel()
    first = positions[:1]  # [1]
    end = first + (count if writes is None else writes)
    sequences = 1 if writes is None else 2
    rows, slots = (_bounds(size, sequences, positions) for size in (count, columns))
    used = torch.zeros(sequences, dtype=torch.int32, device=positions.device)
    used[:1].copy_(end.clamp_max(columns))  # a stale first slot, while recording, must not reach further
    if writes is not None:
        rows[1:2].copy_(writes)
    return Lengths(rows, slots, used)


def _bounds(size: int, sequences: int, like: Tensor) -> Tensor:
    """All of `size` for the first sequence, nothing for a second: ``0, size`` or ``0, size, size``."""
    steps = torch.arange(0, size * sequences + 1, size, dtype=torch.int32, device=like.device)
    return steps.clamp_max(size)


def attend_by_length(
    queries: Tensor, keys: Tensor, values: Tensor, lengths: Lengths, scale: float | None = None
) -> Tensor:
    """Softmax attention of a chain.

    Args:
        queries: Shape [B, H, D].
        keys: Shape [Hkv, C, D]; never copied.
        values: Shape [Hkv, C, D].
        lengths: See `chain_lengths`.
        scale: Factor on the scores; ``1 / sqrt(D)`` by default.

    Returns:
        Shape [B, H D].

    Raises:
        RuntimeError: If the kernel cannot run here.
    """
    count, columns = queries.shape[0], keys.shape[1]
    mixed: Tensor = torch.ops.aten._flash_attention_forward(
        queries,
        keys.transpose(0, 1),  # [C, Hkv, D]
        values.transpose(0, 1),
        lengths.rows,
        lengths.slots,
        count,
        columns,
        0.0,  # dropout
        True,  # causal
        False,  # no mask of the dropout
        scale=scale,
        seqused_k=lengths.used,
    )[0]
    return mixed.reshape(count, -1)


def why_masked(decoder: Decoder) -> str | None:
    """Why this model's recorded chains cannot attend by length on its device; None if they may."""
    width, kinds = decoder.config.head_dim, (False, True)
    windows = [decoder.placement.of(kind).window for kind in kinds]
    if decoder.device.type != "cuda":
        return f"chains attend by length on CUDA alone, and this model is on the {decoder.device.type}"
    if decoder.dtype not in HALF_PRECISIONS:
        return f"the Flash kernel runs in float16 and bfloat16, and this model in {_name(decoder.dtype)}"
    if any(window is not None and window < decoder.capacity for window in windows):
        return "the model has a sliding window"
    if width % _HEAD_STEP or width > _WIDEST_HEAD:
        return f"the Flash kernel has no heads of width {width}"
    major, minor = torch.cuda.get_device_capability(decoder.device)
    if (major, minor) < _LEAST_CAPABILITY:
        return f"the Flash kernel needs compute capability 8.0, and this GPU has {major}.{minor}"
    if not _takes_lengths():
        return f"the Flash kernel of torch {torch.__version__} takes no lengths"
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _takes_lengths() -> bool:
    """Whether this version of torch has the kernel with that argument; neither is its public interface."""
    kernel = getattr(torch.ops.aten, "_flash_attention_forward", None)
    if kernel is None:
        return False
    return any(argument.name == "seqused_k" for argument in kernel.default._schema.arguments)
