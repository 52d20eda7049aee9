"""Draft trees: which continuations are proposed, which nodes each node sees, where an accepted path is kept.

A node is named by its path, the ranks of the candidates that lead to it: (0, 2) is the third best token of
depth 2 under the best token of depth 1 (Medusa, arXiv 2401.10774, section 2.3.3). Nodes are stored in
breadth-first order, siblings by rank; node 0 is the root, the token that the target has already chosen. In
this order the first n nodes are a tree too, so a tree is shrunk by cutting its end off.

Shapes: N nodes with the root, D depth of the deepest node, K candidates per depth, F nodes of a level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.cache import KVCache
from bench.runtime.transfer import upload

Path = tuple[int, ...]
"""Ranks from the root to a node; the root's own path is empty."""

CPU = torch.device("cpu")


class Tree:
    """The shape of a draft tree, without its tokens. Immutable, so masks and positions are computed once.

    Args:
        parents: Parent of every node in breadth-first order, length N; -1 for the root.
        ranks: Which candidate of its depth a node takes, length N; the root's entry is not used.
        device: Device of the tensors.
        marks: The tensors, where they are already there.

    Attributes:
        children: Nodes directly below each node, by rank.
        depths: Depth of each node, 0 for the root.
        offsets: The depths as a tensor on the device, shape [N], int64: positions relative to the root's.
        sees: ``sees[i, j]`` is True if j is i itself or an ancestor of i, shape [N, N], bool.

    Raises:
        ValueError: If the order is not breadth-first.
    """

    def __init__(
        self,
        parents: Sequence[int],
        ranks: Sequence[int],
        device: torch.device = CPU,
        marks: GrowingMarks | None = None,
    ) -> None:
        self.parents, self.ranks = tuple(parents), tuple(ranks)
        depths = [0] * len(parents)
        below: list[list[int]] = [[] for _ in parents]
        for node, parent in enumerate(parents[1:], start=1):
            depths[node] = depths[parent] + 1
            if not 0 <= parent < node or depths[node] < depths[node - 1]:
                raise ValueError(f"node {node} with parent {parent} is not in breadth-first order")
            below[parent].append(node)
        self.depths = tuple(depths)
        self.children = tuple(tuple(nodes) for nodes in below)
        if marks is None:
            self.offsets = upload(torch.tensor(depths), device)
            self.sees = upload(_sees(self.parents), device)
        else:
            self.offsets, self.sees = marks.offsets, marks.sees
        self._parts: dict[int, Tree] = {}
        self._columns: dict[int, Tensor] = {}

    @classmethod
    def of_paths(cls, paths: Iterable[Sequence[int]], device: torch.device = CPU) -> Tree:
        """A tree from the paths of all nodes but the root, in any order.

        Raises:
            ValueError: If a path is empty, appears twice, holds a negative rank, or lacks its parent.
        """
        ordered = sorted((tuple(path) for path in paths), key=lambda path: (len(path), path))
        index: dict[Path, int] = {(): 0}
        for path in ordered:
            if path in index:
                raise ValueError(f"path {list(path)} is given twice, or is the root's, which is implied")
            if path[:-1] not in index:
                raise ValueError(f"path {list(path)} has no parent: add {list(path[:-1])}")
            if path[-1] < 0:
                raise ValueError(f"path {list(path)} holds a negative rank")
            index[path] = len(index)
        parents = [-1, *(index[path[:-1]] for path in ordered)]
        return cls(parents, [0, *(path[-1] for path in ordered)], device)

    @classmethod
    def of_child_counts(cls, counts: Mapping[str, int], device: torch.device = CPU) -> Tree:
        """A tree from the number of children of its nodes.

        ``{"": 3, "0": 2}`` has three nodes below the root and two below the first of them.

        Args:
            counts: Children by path, a path being a string of one-digit ranks; other nodes have no children.
            device: Device of the tensors.

        Raises:
            ValueError: If a path names no node of the tree.
        """
        paths = [(*map(int, parent), rank) for parent, count in counts.items() for rank in range(count)]
        return cls.of_paths(paths, device)

    @classmethod
    def chain(cls, depth: int, device: torch.device = CPU) -> Tree:
        """A chain: the best candidate of each depth and nothing else."""
        return cls(range(-1, depth), [0] * (depth + 1), device)

    @property
    def size(self) -> int:
        """Number of nodes, the root included (N)."""
        return len(self.parents)

    @property
    def depth(self) -> int:
        """Depth of the deepest node (D)."""
        return self.depths[-1]

    @property
    def width(self) -> int:
        """Number of candidates that each depth must offer: one more than the largest rank."""
        return max(self.ranks[1:], default=-1) + 1

    @property
    def paths(self) -> tuple[Path, ...]:
        """Path of every node but the root."""
        paths: list[Path] = [()]
        for parent, rank in zip(self.parents[1:], self.ranks[1:], strict=True):
            paths.append((*paths[parent], rank))
        return tuple(paths[1:])

    def route(self, node: int) -> tuple[int, ...]:
        """Nodes from the root to `node`, both included."""
        upward = []
        while node >= 0:
            upward.append(node)
            node = self.parents[node]
        return tuple(reversed(upward))

    def first_path(self, length: int) -> tuple[int, ...]:
        """The root and `length` nodes below it, each the first child of its predecessor."""
        path = [0]
        while len(path) <= length:
            path.append(self.children[path[-1]][0])
        return tuple(path)

    def fit(self, depth: int, size: int) -> Tree:
        """The part of this tree no deeper than `depth` and with at most `size` nodes, the root included."""
        count = sum(node_depth <= depth for node_depth in self.depths)
        count = max(1, min(count, size))
        if count == self.size:
            return self
        if count not in self._parts:
            self._parts[count] = Tree(self.parents[:count], self.ranks[:count], self.offsets.device)
        return self._parts[count]

    def gather(self, root: Tensor, candidates: Tensor) -> Tensor:
        """Fill the tree with tokens.

        Args:
            root: The root token, shape [1], int64.
            candidates: Candidate tokens by depth and rank, best first, shape [>= D, K] with K >= `width`.

        Returns:
            Token id of every node, shape [N].
        """
        width = candidates.shape[1]
        if width not in self._columns:
            flat = [(d - 1) * width + r for d, r in zip(self.depths[1:], self.ranks[1:], strict=True)]
            self._columns[width] = upload(torch.tensor(flat, dtype=torch.int64), candidates.device)
        return torch.cat([root, candidates.flatten()[self._columns[width]]])


def _sees(parents: Sequence[int]) -> Tensor:
    """Which nodes each node sees, itself and its ancestors, shape [N, N], bool."""
    sees = [[False] * len(parents) for _ in parents]
    sees[0][0] = True
    for node, parent in enumerate(parents[1:], start=1):
        sees[node][: parent + 1] = sees[parent][: parent + 1]
        sees[node][node] = True
    return torch.tensor(sees)


class GrowingMarks:
    """Positions and visibility of a tree that grows by levels, kept on the device.

    Args:
        root: Any tensor of the device.

    Attributes:
        offsets: As in `Tree`, of the nodes so far.
        sees: Likewise.
    """

    def __init__(self, root: Tensor) -> None:
        self.offsets = torch.zeros(1, dtype=torch.int64, device=root.device)
        self.sees = torch.ones(1, 1, dtype=torch.bool, device=root.device)

    def add(self, parents: Tensor, depth: int) -> None:
        """Add the nodes of depth `depth` below these parents [F]."""
        count, size = parents.numel(), self.offsets.numel()
        self.offsets = torch.cat([self.offsets, self.offsets.new_full((count,), depth)])
        rows = F.pad(self.sees, (0, count, 0, count))
        rows[size:, :size] = self.sees[parents]
        self.sees = rows.fill_diagonal_(fill_value=True)


def compact(cache: KVCache, base: int, path: Sequence[int]) -> None:
    """Keep the accepted path of a tree in the cache and drop its other nodes.

    Node i is at slot ``base + i`` of every layer; the path's nodes move down to ``base``, ``base + 1``, ...,
    where the rows of a chain would be.

    Args:
        cache: Holds the tree's rows.
        base: Slot of the root.
        path: Accepted nodes, root first, increasing.
    """
    settled = next((place for place, node in enumerate(path) if node != place), len(path))
    if settled < len(path):  # the first `settled` nodes are already where they belong
        moved = torch.tensor(path[settled:]) - settled
        cache.keep(base + settled, moved)
    cache.truncate(base + len(path))
