"""Grouping sequences of similar length, so that little of a padded batch is padding."""

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def group_by_length(items: Sequence[Item], most: int, length: Callable[[Item], int]) -> list[list[Item]]:
    """Groups of items of similar length, the longest items first.

    Args:
        items: Sequences, or objects that hold one.
        most: Largest padded size of a group, in tokens; a group of one item may be larger.
        length: Number of tokens of an item.
    """
    groups: list[list[Item]] = []
    for item in sorted(items, key=length, reverse=True):
        # the first item of a group is its longest: all others are padded to its length
        if groups and (len(groups[-1]) + 1) * length(groups[-1][0]) <= most:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups
