"""The sizes that passes are recorded in, as numbers of rows and of cache slots. Imports no torch."""

from __future__ import annotations

from bisect import bisect_left

ROW_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
"""Rows of the buckets: every number up to 8, where most chains are, then steps of at most a third."""
MOST_ROWS = ROW_SIZES[-1]
"""Passes of more rows are not recorded."""
_COLUMN_SIZES = tuple(size << shift for shift in range(20) for size in (128, 192))  # steps of at most a half


def row_size(count: int) -> int:
    """Rows of the smallest bucket for `count` rows, at most `MOST_ROWS`."""
    return ROW_SIZES[bisect_left(ROW_SIZES, count)]


def row_sizes(most: int) -> list[int]:
    """Rows of all buckets that passes of up to `most` rows use; longer passes are not recorded."""
    return [size for size in ROW_SIZES if size <= row_size(min(most, MOST_ROWS))]


def column_size(end: int, capacity: int) -> int:
    """Columns of the smallest bucket that covers slots ``0 .. end - 1``; never more than the capacity."""
    return min(_COLUMN_SIZES[bisect_left(_COLUMN_SIZES, end)], capacity)


def column_sizes(longest: int, capacity: int) -> list[int]:
    """Columns of all buckets that a sequence of `longest` tokens uses while it grows."""
    last = column_size(longest, capacity)
    return sorted({min(size, last) for size in _COLUMN_SIZES})
