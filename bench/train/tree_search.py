"""The draft tree that pays best, from measured acceptance and measured costs; pure functions of numbers.

Rounds are played through on texts where it is known which candidates are right: a round accepts what its tree
holds of them, and the next one begins behind that. Nodes are added one by one, each time the one that most
rounds lacked. Medusa (arXiv 2401.10774, section 2.3.3) multiplies accuracies of places and depths instead,
as if all erred independently; but where one depth is right so, more often, is the next, and rounds that
accept little are many: they stand at hard places more often than tokens do. Where to stop is decided by the
time of a round: the size with the most expected tokens per second wins.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a growing tree.

    Args:
        path: Ranks from the root.
        tokens: Per round with this node and all before it.
    """

    path: Path
    tokens: float


@dataclass(frozen=True, slots=True)
class SizedTree:
    """The outcome of a search.

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
        texts: Ranks of the tokens that follow each place of each text, as deep as candidates had them.
        most: Nodes to find; fewer come back if no round lacks any.
    """
    found: list[Node] = []
    tree: set[Path] = {()}
    rounds = list(_rounds(texts, tree))
    while len(found) < most:
        lacked = Counter(path[: depth + 1] for path, depth in rounds if len(path) > depth)
        if not lacked:
            break
        best = min(lacked, key=lambda path: (-lacked[path], path))
        tree.add(best)
        rounds = list(_rounds(texts, tree))
        found.append(Node(best, 1 + sum(depth for _, depth in rounds) / len(rounds)))
    return found


def _rounds(texts: Sequence[Sequence[Path]], tree: Set[Path]) -> Iterator[tuple[Path, int]]:
    """The right path wherever a round begins, and how much of it the tree, its root included, holds."""
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
    low = max(one for one in round_s if one < size)
    high = min(one for one in round_s if one > size)
    share = (size - low) / (high - low)
    return round_s[low] * (1 - share) + round_s[high] * share
