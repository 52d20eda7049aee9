"""Measurements for the choice of a draft tree: how often each candidate is right, and how long a round takes.

Shapes: T tokens of a text, N positions in its answer, D depths, K candidates per depth.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.sampling import Sampler, Sampling
from bench.show.waiting import waited
from bench.train.calibrate.tree_search import Path
from bench.train.data.heldout import Continuation
from methods.core.base import Budget, Method
from methods.core.tree_round import Calibratable

ROUND_SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128)


@torch.inference_mode()
def measured_ranks(method: Calibratable, text: Continuation, width: int) -> Tensor:
    """Rank of the target's own token among the candidates of each depth, `width` if it is none, shape [N, D].

    A row belongs to a position of the answer that is followed by at least D more tokens.
    """
    proposed = method.candidates(text.ids, width)  # [T, D, K]
    depth = proposed.shape[1]
    following = text.ids[text.start + 1 :]  # the tokens after the roots at start, start + 1, ..
    actual = following.unfold(0, depth, 1) if following.numel() >= depth else following.new_empty(0, depth)
    hits = proposed[text.start - 1 :][: actual.shape[0]] == actual[..., None]
    return F.pad(hits, (0, 1), value=True).int().argmax(dim=-1).cpu()  # the first hit


def rank_accuracies(ranks: Tensor, width: int) -> list[list[float]]:
    """Share of positions where the candidate of depth d + 1 and rank r is the target's token, shape [D][K].

    Args:
        ranks: From `measured_ranks`, of all texts.
        width: The same as there.

    Raises:
        ValueError: If there are no positions.
    """
    if not ranks.numel():
        raise ValueError("the texts are too short to measure every depth")
    hits = F.one_hot(ranks, width + 1)[..., :width].float()
    return [[round(value, 5) for value in row] for row in hits.mean(dim=0).tolist()]


def right_paths(ranks: Tensor, width: int) -> list[Path]:
    """For each position, the ranks of the right candidates down to the first depth that has none.

    Args:
        ranks: From `measured_ranks`.
        width: The same as there.
    """
    return [tuple(takewhile(lambda rank: rank < width, row)) for row in ranks.tolist()]


def round_seconds(
    build: Callable[[Sequence[Path]], Method], paths: Sequence[Path], prompts: Sequence[Tensor], tokens: int
) -> dict[int, float]:
    """Seconds of a whole round by the number of drafted nodes, for the `ROUND_SIZES` up to ``len(paths)``.

    Every size decodes every prompt, and the median round of each answer is divided by that of the smallest
    size on the same prompt. The result is the median of these ratios over prompts, times the smallest median
    round of the smallest size. So other load on the machine during some answers does not favour a size.

    Args:
        build: Returns an attached method that drafts the given tree.
        paths: Nodes in the order to add them; every prefix is a tree.
        prompts: Prompts, each of shape [P].
        tokens: Tokens to decode per prompt.
    """
    sizes = [size for size in ROUND_SIZES if size <= len(paths)]
    methods = {size: build(paths[:size]) for size in sizes}
    for method in methods.values():
        _whole_rounds(method, prompts[0], tokens)  # warm-up, not counted
    medians = [  # seconds by size, one entry per prompt
        {size: median(_whole_rounds(method, prompt, tokens)) for size, method in methods.items()}
        for prompt in waited(prompts, "timing trees", "prompt")
    ]
    unit = min(by_size[sizes[0]] for by_size in medians)
    return {size: unit * median(by_size[size] / by_size[sizes[0]] for by_size in medians) for size in sizes}


@torch.inference_mode()
def _whole_rounds(method: Method, prompt: Tensor, tokens: int) -> list[float]:
    """Seconds of every round whose tree was not cut by the token budget."""
    clock = _RoundClock()
    sampler = Sampler(Sampling(), prompt.device, 0)
    result = method.generate(prompt, Budget(tokens, frozenset()), sampler, clock)
    return [
        end - start
        for start, end, counts in zip(clock.starts, clock.ends, result.rounds, strict=True)
        if counts.stop != "budget"
    ]


class _RoundClock:
    """A `methods.core.base.Clock` that records the start and end of rounds.

    It needs no synchronisation with the device, because every round ends with one.
    """

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.ends: list[float] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Rounds begin with their draft and end with their commit."""
        if name == "draft":
            self.starts.append(time.perf_counter())
        yield
        if name == "commit":
            self.ends.append(time.perf_counter())

    def first_token(self) -> None:
        return None
