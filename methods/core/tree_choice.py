"""Which tree a method drafts: the configured one, else the one stored beside its weights, else an error.

There is no built-in default: the best tree depends on the weights and on the machine, and
``python -m bench.train.calibrate`` measures both.
"""

from collections.abc import Mapping, Sequence

import torch

from bench.errors import UserError
from methods.core.trees import Tree

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


def _each(parents: str, count: int = 1) -> dict[str, int]:
    return dict.fromkeys(parents.split(), count)


PUBLISHED: Mapping[str, Mapping[str, int]] = {
    # Spec-Bench and Hydra draft with this tree for every model size.
    "mc_sim_7b_63": {
        **{"": 10, "0": 10, "1": 7, "2": 3, "3": 2},
        **_each("4 5 6 7 8 9"),
        **{"00": 10, "01": 3, "02": 2, "10": 2, "20": 1},
        **_each("03 04 05 06 07"),
        **{"000": 2},
    },
    "vicuna_7b_stage1": {
        **{"": 10, "0": 10, "1": 7, "2": 4, "3": 3, "4": 2, "5": 2},
        **_each("6 7 8 9"),
        **{"00": 9, "01": 3, "02": 2, "10": 2, "20": 1},
        **_each("03 04 05"),
        **{"000": 1},
    },
    "vicuna_13b_stage1": {
        **{"": 10, "0": 10, "1": 7, "2": 4, "3": 2, "4": 2},
        **_each("5 6 7 8"),
        **{"00": 10, "01": 4, "02": 2, "10": 2, "11": 1, "20": 1},
        **_each("03 04 05"),
        **{"000": 1},
    },
    "vicuna_33b_stage1": {
        **{"": 10, "0": 10, "1": 8, "2": 5, "3": 3, "4": 2, "5": 2},
        **_each("6 7 8 9"),
        **{"00": 9, "01": 3, "02": 2, "10": 2, "20": 1},
        **_each("03 04"),
    },
    "vicuna_7b_stage2": {
        **{"": 10, "0": 10, "1": 5, "2": 2, "3": 2},
        **_each("4 5 6 7"),
        **{"00": 9, "01": 4, "02": 2, "10": 3, "11": 1, "20": 1},
        **_each("03 04 05"),
        **{"000": 4, "001": 1, "002": 1, "010": 1},
    },
    "vicuna_7b_stage1_ablation": {
        **{"": 10, "0": 10, "1": 4, "2": 2, "3": 2},
        **_each("4 5 6"),
        **{"00": 10, "01": 4, "02": 2, "10": 3, "11": 1, "20": 1, "30": 1},
        **_each("03 04 05"),
        **{"000": 4, "001": 1, "002": 1, "010": 1},
    },
    "vicuna_13b_stage2": {
        **{"": 10, "0": 10, "1": 4, "2": 2},
        **_each("3 4 5"),
        **{"00": 10, "01": 4, "02": 2, "10": 3, "11": 1, "20": 1, "30": 1},
        **_each("03 04 05"),
        **{"000": 4, "001": 2, "002": 1, "010": 1, "100": 1},
    },
    "vicuna_33b_stage2": {
        **{"": 10, "0": 10, "1": 5, "2": 3, "3": 2},
        **_each("4 5 6 7"),
        **{"00": 10, "01": 4, "02": 2, "10": 3, "11": 1, "20": 1},
        **_each("03 04 05"),
        **{"000": 3, "001": 1, "010": 1},
    },
    "zephyr_stage2": {
        **{"": 10, "0": 10, "1": 6, "2": 4, "3": 2, "4": 2},
        **_each("5 6 7"),
        **{"00": 10, "01": 4, "02": 2, "10": 2, "11": 1, "20": 1},
        **_each("03 04 05"),
        **{"000": 2, "001": 1},
    },
}
"""Trees of Medusa's authors as child counts: 63 nodes and the root each (arXiv 2401.10774).

A key is a node's path as a string of ranks, its value how many children the node has; their ranks start at 0.
"""
