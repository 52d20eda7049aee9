"""PyTorch's Flash kernel for sequences of different lengths, as plain arithmetic on the pretended device.

Written from the documentation of `torch.nn.attention.varlen.varlen_attn`: sequences lie one after another;
``cum_seq_q`` and ``cum_seq_k`` say where each begins, ``seqused_k`` how many of its slots count; a causal
window is aligned with the last row and the last slot that counts; a row that sees nothing becomes zero. What
the documentation leaves open is refused, or NaN.

Shapes: T rows in all, C slots in all, H query heads, Hkv key/value heads, D head width, Q sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Reach(NamedTuple):
    """What the rows of one sequence see.

    Args:
        first: How many slots the first row sees; every later one sees one more.
        most: No row sees more.
    """

    first: int
    most: int


Rule = Callable[[int, int, int], Reach]
"""From the rows of a sequence, its slots that count, and its room, to what they see."""


def documented(rows: int, used: int, room: int) -> Reach:
    return Reach(used - rows + 1, used)


def top_left(rows: int, used: int, room: int) -> Reach:
    return Reach(1, used)


def one_slot_short(rows: int, used: int, room: int) -> Reach:
    return documented(rows, used - 1, room)


def one_slot_long(rows: int, used: int, room: int) -> Reach:
    return documented(rows, min(used + 1, room) if used else 0, room)


def not_causal(rows: int, used: int, room: int) -> Reach:
    return Reach(used, used)


def without_lengths(rows: int, used: int, room: int) -> Reach:
    return documented(rows, room, room)


def failing(rows: int, used: int, room: int) -> Reach:
    raise RuntimeError("no kernel image is available for execution on the device\nmore lines")


def kernel(rule: Rule, note: Callable[[], None]) -> Callable[..., tuple[Tensor, ...]]:
    """``aten::_flash_attention_forward`` for tensors of the CPU; see the module's docstring.

    Args:
        rule: What rows see.
        note: Called whenever the kernel runs, in replays too.
    """

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cum_seq_q: Tensor,
        cum_seq_k: Tensor,
        max_q: int,
        max_k: int,
        dropout_p: float,
        is_causal: bool,
        return_debug_mask: bool,
        *,
        scale: float | None = None,
        seqused_k: Tensor,
        **others: Any,
    ) -> tuple[Tensor, ...]:
        note()
        assert is_causal
        assert not any((dropout_p, return_debug_mask, *others.values()))
        starts, rooms, used = _read(cum_seq_q), _read(cum_seq_k), _read(seqused_k)
        _check(query, key, value)
        assert len(starts) == len(rooms) == len(used) + 1
        assert (starts[-1], rooms[-1]) == (len(query), len(key))
        out = torch.full_like(query, float("nan"))
        for number, count in enumerate(used):
            first, end = starts[number : number + 2]
            begin, stop = rooms[number : number + 2]
            assert end - first <= max_q
            assert count <= stop - begin <= max_k
            reach = rule(end - first, count, stop - begin)
            for row in range(first, end):
                seen = slice(begin, begin + min(max(0, reach.first + row - first), reach.most))
                out[row] = _one_row(query[row], key[seen], value[seen], scale)
        rest = query.new_zeros(())
        return out, rest.clone(), rest.clone(), rest.clone(), rest.clone()

    return attend


def _read(numbers: Tensor) -> list[int]:
    assert numbers.dtype == torch.int32
    assert numbers.is_contiguous()
    made: list[int] = numbers.tolist()
    return made


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    assert query.shape[2] % 8 == 0
    assert query.shape[2] <= 256
    assert query.shape[1] % key.shape[1] == 0
    assert all(item.stride(-1) == 1 and item.dtype == query.dtype for item in (query, key, value))


def _one_row(query: Tensor, keys: Tensor, values: Tensor, scale: float | None) -> Tensor:
    """Attention [H, D] of one row [H, D] over slots [N, Hkv, D]."""
    if not len(keys):
        return torch.zeros_like(query)
    times = query.shape[0] // keys.shape[1]
    wide, keys, values = (
        query.float(),
        *(item.float().repeat_interleave(times, dim=1) for item in (keys, values)),
    )
    scores = torch.einsum("hd,nhd->hn", wide, keys) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return torch.einsum("hn,nhd->hd", scores.softmax(dim=-1), values).to(query.dtype)
