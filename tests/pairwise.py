"""Few rows of settings instead of all combinations: covering arrays, and settings that take turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

Pair = tuple[int, int, int, int]
"""Factor a, factor b, level of a, level of b; a < b."""


def pairwise(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows of settings, one level per factor, in which any two levels of two factors meet at least once.

    Greedy and deterministic: each row begins with a pair that is still missing, and every other factor takes
    the level that completes most missing pairs, of several the one used least so far. With two factors this
    is the full grid.

    Args:
        factors: The levels of each factor, at least two factors.
    """
    missing = {
        (a, b, i, j)
        for a, b in combinations(range(len(factors)), 2)
        for i, j in product(range(len(factors[a])), range(len(factors[b])))
    }
    rows, uses = [], Counter[tuple[int, int]]()
    while missing:
        row = _row([len(levels) for levels in factors], missing, uses)
        missing -= set(_pairs(row))
        uses.update(row.items())
        rows.append(tuple(levels[row[index]] for index, levels in enumerate(factors)))
    return rows


def rotated(cases: Sequence[Any], levels: Sequence[Any], turns: Sequence[Any]) -> list[tuple[Any, Any, Any]]:
    """Rows (case, level, turn) in which every case meets every level, each time with the next of `turns`.

    For a case that is slow, where each level must be tried and any few of the turns will do.

    Args:
        cases: What every level is tried with.
        levels: Met by every case.
        turns: Taken one after the other; each case begins with another.
    """
    return [
        (case, level, turns[(place + step) % len(turns)])
        for place, case in enumerate(cases)
        for step, level in enumerate(levels)
    ]


def _row(sizes: Sequence[int], missing: set[Pair], uses: Counter[tuple[int, int]]) -> dict[int, int]:
    """The next row: the level of each factor, by the factor's index."""
    a, b, i, j = min(missing)
    row = {a: i, b: j}
    for factor in sorted(set(range(len(sizes))) - row.keys(), key=lambda factor: -sizes[factor]):
        gains = [len(missing & set(_pairs({**row, factor: level}))) for level in range(sizes[factor])]
        row[factor] = max(range(sizes[factor]), key=lambda level: (gains[level], -uses[factor, level]))
    return row


def _pairs(row: dict[int, int]) -> list[Pair]:
    """All pairs of a row, complete or not."""
    return [(a, b, row[a], row[b]) for a, b in combinations(sorted(row), 2)]
