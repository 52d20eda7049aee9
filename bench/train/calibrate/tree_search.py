"""The draft tree with the most expected tokens per second; pure functions of measured numbers.

Rounds are simulated on texts for which the right candidates are known: a round accepts the longest right path
that its tree contains, and the next round begins after it. Nodes are added one by one, each time the node
that was missing in most rounds. Medusa (arXiv 2401.10774, section 2.3.3) multiplies accuracies of ranks and
depths instead, as if errors were independent. They are not: if one depth is right, the next is more often
right too. And rounds that accept little are frequent, so rounds begin at hard positions more often than
tokens stand there. The size of the tree follows from the time of a round: the size with the most expected
tokens per second wins.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a growing tree.

    Args:
        path: Ranks of the candidates on the way from the root.
        tokens: Expected tokens per round with this node and all earlier ones.
    """

    path: Path
    tokens: float


@dataclass(frozen=True, slots=True)
class SizedTree:
    """The result of a search.

    Args:
        paths: Nodes without the root, in the order they were added.
        tokens: Expected tokens per round.
        seconds: Time of a round.
    """

    paths: tuple[Path, ...]
    tokens: float
    seconds: float


def grow(texts: Sequence[Sequence[Path]], most: int) -> list[Node]:
    """Nodes in the order to add them; every prefix is a tree.

    Args:
        texts: For each position of each text, the ranks of the right candidates (from `measure.right_paths`).
        most: Largest number of nodes; fewer are returned if more would not help any round.
    """
    nodes: list[Node] = []
    tree: set[Path] = {()}
    rounds = list(_rounds(texts, tree))
    while len(nodes) < most:
        missing = Counter(path[: depth + 1] for path, depth in rounds if len(path) > depth)
        if not missing:
            break
        best = min(missing, key=lambda path: (-missing[path], path))
        tree.add(best)
        rounds = list(_rounds(texts, tree))
        nodes.append(Node(best, 1 + sum(depth for _, depth in rounds) / len(rounds)))
    return nodes


def _rounds(texts: Sequence[Sequence[Path]], tree: Set[Path]) -> Iterator[tuple[Path, int]]:
    """For each simulated round, the right path and the depth to which the tree contains it."""
    for text in texts:
        place = 0
        while place < len(text):
            path = text[place]
            depth = max(depth for depth in range(len(path) + 1) if path[:depth] in tree)
            yield path, depth
            place += depth + 1


def best_size(nodes: Sequence[Node], round_s: Mapping[int, float], least_tokens: float = 1.0) -> SizedTree:
    """The prefix of `nodes` with the most expected tokens per second.

    Args:
        nodes: From `grow`.
        round_s: Seconds of a round by number of nodes, for some sizes; times between them are interpolated,
            and sizes outside the measured range are not considered.
        least_tokens: Smallest acceptable number of expected tokens per round.

    Raises:
        ValueError: If no tree size lies in the measured range, or none reaches `least_tokens`.
    """
    sizes = [size for size in range(1, len(nodes) + 1) if min(round_s) <= size <= max(round_s)]
    if not sizes:
        raise ValueError(
            f"no tree of up to {len(nodes)} nodes lies within the measured sizes {sorted(round_s)}"
        )
    tokens = {size: nodes[size - 1].tokens for size in sizes}
    if not (sizes := [size for size in sizes if tokens[size] >= least_tokens]):
        most = max(tokens.values())
        raise ValueError(f"no measured tree promises {least_tokens} tokens a round: {most:.2f}")
    best = max(sizes, key=lambda size: tokens[size] / seconds_at(round_s, size))
    paths = tuple(node.path for node in nodes[:best])
    return SizedTree(paths, tokens[best], seconds_at(round_s, best))


def seconds_at(round_s: Mapping[int, float], size: int) -> float:
    """Time at `size` by linear interpolation between measured sizes, which must enclose it."""
    if size in round_s:
        return round_s[size]
    low = max(measured for measured in round_s if measured < size)
    high = min(measured for measured in round_s if measured > size)
    share = (size - low) / (high - low)
    return round_s[low] * (1 - share) + round_s[high] * share
