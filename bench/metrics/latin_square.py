"""The order in which the arms of an arena are decoded: a seeded Latin square balanced for carry-over.

A cell is one question in one repeat; in it every arm decodes the question once. The design is E. J. Williams'
(1949, "Experimental designs balanced for the estimation of residual effects of treatments"): over a block of
rows each arm stands at each place equally often, and follows each other arm equally often.
"""

from functools import cache

import numpy as np


def williams(arms: int) -> list[list[int]]:
    """Rows of the Williams design, each an order of the arms 0 to `arms` - 1.

    An even number of arms needs one square of `arms` rows, an odd number two: the second is the first with
    each row reversed.

    Raises:
        ValueError: If there is no arm.
    """
    if arms < 1:
        raise ValueError(f"a Latin square needs at least 1 arm, got {arms}")
    zigzag = [(place + 1) // 2 if place % 2 else (arms - place // 2) % arms for place in range(arms)]
    square = [[(arm + shift) % arms for arm in zigzag] for shift in range(arms)]
    is_balanced = arms % 2 == 0 or arms == 1
    return square if is_balanced else square + [row[::-1] for row in square]


def order_of(seed: int, cell: int, arms: int) -> list[int]:
    """The order of the arms in cell number `cell`, the same on every call.

    Each block of cells uses every row of the design once, in a random order and with the arms relabelled at
    random, so that the balance over a whole block is exact. Two arms alternate whatever the seed, and cell 0
    starts with arm 0: two repeats of a question then decode it as A B, B A.

    Args:
        seed: Chooses the random order of rows and the labels, at least 0.
        cell: Number of the cell, counted from 0 through the whole session.
        arms: Number of arms.

    Raises:
        ValueError: If a number is out of range.
    """
    if seed < 0 or cell < 0:
        raise ValueError(f"seed and cell must not be negative, got {seed} and {cell}")
    rows = 2 if arms == 2 else len(williams(arms))
    return list(_block(seed, cell // rows, arms)[cell % rows])


@cache
def _block(seed: int, block: int, arms: int) -> tuple[tuple[int, ...], ...]:
    """The orders of one block of cells, one row per cell."""
    rows = williams(arms)
    if arms == 2:
        return tuple(map(tuple, rows))
    generator = np.random.default_rng([seed, block])
    labels = [int(label) for label in generator.permutation(arms)]
    shuffled = [rows[int(row)] for row in generator.permutation(len(rows))]
    return tuple(tuple(labels[arm] for arm in row) for row in shuffled)
