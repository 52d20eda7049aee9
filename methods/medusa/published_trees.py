"""The trees that Medusa's authors published, as child counts: 63 nodes and the root each (arXiv 2401.10774).

A key is a node's path as a string of ranks, its value how many children the node has; their ranks run from 0.
"""

from collections.abc import Mapping


def _each(parents: str, count: int = 1) -> dict[str, int]:
    return dict.fromkeys(parents.split(), count)


PUBLISHED: Mapping[str, Mapping[str, int]] = {
    # Spec-Bench and Hydra use this one for every model size.
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
}
