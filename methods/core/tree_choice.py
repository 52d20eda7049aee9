"""Which tree a method drafts: the configured one, else the one stored beside its weights, else an error.

There is no built-in default: the best tree depends on the weights and on the machine, and
``python -m bench.train.calibrate`` measures both.
"""

from collections.abc import Mapping, Sequence

import torch

from bench.errors import UserError
from methods.core.trees import Tree
from methods.medusa.published_trees import PUBLISHED

TreeSpec = str | Mapping[str, int] | Sequence[Sequence[int]]
"""``chain``, the name of a published tree, child counts by path, or a list of paths."""


def choose_tree(
    configured: TreeSpec | None, stored: TreeSpec | None, depth: int, method: str, device: torch.device
) -> Tree:
    """The tree to draft.

    Args:
        configured: ``method.tree``.
        stored: Entry ``tree`` of the weights' ``module.json``.
        depth: Depth that the method's modules can draft; ``chain`` is as deep.
        method: Its name, for messages.
        device: Where the tree's tensors live.

    Raises:
        UserError: If there is none, or it is no tree, or it is deeper than the modules.
    """
    spec = stored if configured is None else configured
    if spec is None:
        raise UserError(
            f"{method} has no tree: its module.json stores none and method.tree is not set",
            f"measure one with python -m bench.train.calibrate method={method} model=..., or set "
            f"method.tree=chain or one of {', '.join(PUBLISHED)}",
        )
    try:
        tree = _parse(spec, depth, device)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"method.tree is no tree: {error}",
            f"give chain, one of {', '.join(PUBLISHED)}, a list of paths, or child counts by path",
        ) from error
    if not 1 <= tree.depth <= depth:
        raise UserError(
            f"the tree is {tree.depth} deep, the modules of {method} draft depths 1..{depth}",
            "set method.tree to a tree of that depth, or train more heads or steps",
        )
    return tree


def _parse(spec: TreeSpec, depth: int, device: torch.device) -> Tree:
    if isinstance(spec, Mapping):
        return Tree.of_child_counts({str(path): count for path, count in spec.items()}, device)
    if not isinstance(spec, str):
        return Tree.of_paths(spec, device)
    if spec == "chain":
        return Tree.chain(depth, device)
    if spec not in PUBLISHED:
        raise ValueError(f"{spec!r} is not the name of one")
    return Tree.of_child_counts(PUBLISHED[spec], device)
