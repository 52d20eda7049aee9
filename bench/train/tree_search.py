"""The draft tree that pays best, from measured accuracies and measured costs; pure functions of numbers.

Nodes are added one by one, each time the one that adds most to the expected number of accepted tokens, under
the assumption that depths err independently (Medusa, arXiv 2401.10774, section 2.3.3). Where to stop is
decided by the time of a round: the size with the most expected tokens per second wins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a growing tree.

    Args:
        path: Ranks from the root.
        gain: Probability that it is accepted: what it adds to the tokens of a round.
    """

    path: Path
    gain: float


@dataclass(frozen=True, slots=True)
class SizedTree:
    """The outcome of a search.

    Args:
        paths: Nodes without the root, in order of gain.
        tokens: Expected tokens per round: one, and every node's gain.
        seconds: Time of a round.
    """

    paths: tuple[Path, ...]
    tokens: float
    seconds: float


def grow(accuracies: Sequence[Sequence[float]], most: int) -> list[Node]:
    """Nodes in order of gain; every prefix is a tree.

    Args:
        accuracies: ``accuracies[d][r]``: how often candidate r of depth d + 1 is the target's token.
        most: Nodes to find; fewer come back if there are no more.
    """
    found: list[Node] = []
    queue: list[tuple[float, Path, float]] = []

    def offer(parent: Path, above: float, rank: int) -> None:
        depth = len(parent)
        if depth < len(accuracies) and rank < len(accuracies[depth]):
            heappush(queue, (-above * accuracies[depth][rank], (*parent, rank), above))

    offer((), 1.0, 0)
    while queue and len(found) < most:
        negative, path, above = heappop(queue)
        found.append(Node(path, -negative))
        offer(path[:-1], above, path[-1] + 1)
        offer(path, -negative, 0)
    return found


def best_size(nodes: Sequence[Node], round_s: Mapping[int, float], least_tokens: float = 1.0) -> SizedTree:
    """The prefix of `nodes` with the most expected tokens per second.

    Args:
        nodes: From `grow`.
        round_s: Seconds of a round by nodes drafted, for some sizes; between them time is linear, and sizes
            outside the measured range are not considered.
        least_tokens: Expected tokens per round that the tree must promise.

    Raises:
        ValueError: If no size was measured that the nodes could fill, or none promises enough tokens.
    """
    sizes = [size for size in range(1, len(nodes) + 1) if min(round_s) <= size <= max(round_s)]
    if not sizes:
        raise ValueError(
            f"no tree of up to {len(nodes)} nodes lies within the measured sizes {sorted(round_s)}"
        )
    tokens = [1.0]
    for node in nodes:
        tokens.append(tokens[-1] + node.gain)
    if not (sizes := [size for size in sizes if tokens[size] >= least_tokens]):
        raise ValueError(f"no measured tree promises {least_tokens} tokens a round: {max(tokens):.2f}")
    best = max(sizes, key=lambda size: tokens[size] / seconds_at(round_s, size))
    paths = tuple(node.path for node in nodes[:best])
    return SizedTree(paths, tokens[best], seconds_at(round_s, best))


def seconds_at(round_s: Mapping[int, float], size: int) -> float:
    """Time at `size` by linear interpolation between measured sizes, which must enclose it."""
    if size in round_s:
        return round_s[size]
    low = max(one for one in round_s if one < size)
    high = min(one for one in round_s if one > size)
    share = (size - low) / (high - low)
    return round_s[low] * (1 - share) + round_s[high] * share
