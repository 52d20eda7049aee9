"""Measuring what a draft tree depends on: how often each candidate is right, and how long a round takes.

Shapes: T tokens of a text, N places of it, D depths, K candidates per depth.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.sampling import Sampler, Sampling
from bench.train.tree_search import Path
from methods.core.base import Budget, Method
from methods.core.tree_round import Calibratable

ROUND_SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128)


@dataclass(frozen=True, slots=True)
class Continuation:
    """A prompt and the target's greedy answer to it, as one text.

    Args:
        ids: Token ids, shape [T].
        start: Where the answer begins.
    """

    ids: Tensor
    start: int


@torch.inference_mode()
def continue_greedily(method: Method, prompt: Tensor, tokens: int, eos_ids: frozenset[int]) -> Continuation:
    """The target's own answer, decoded with any exact method."""
    budget = Budget(tokens, eos_ids)
    got = method.generate(prompt, budget, Sampler(Sampling(), prompt.device, 0), _RoundClock())
    answer = torch.tensor(got.cut(tokens, eos_ids).ids, device=prompt.device)
    return Continuation(torch.cat([prompt, answer]), prompt.numel())


@torch.inference_mode()
def measured_ranks(method: Calibratable, text: Continuation, width: int) -> Tensor:
    """Rank that the target's own token has among the candidates of each depth, `width` if none, shape [N, D].

    A row is a place of the answer behind which a token is left for every depth.
    """
    proposed = method.candidates(text.ids, width)  # [T, D, K]
    depth = proposed.shape[1]
    behind = text.ids[text.start + 1 :]  # of the roots at start, start + 1, ..
    actual = behind.unfold(0, depth, 1) if behind.numel() >= depth else behind.new_empty(0, depth)
    hits = proposed[text.start - 1 :][: actual.shape[0]] == actual[..., None]
    return F.pad(hits, (0, 1), value=True).int().argmax(dim=-1).cpu()  # the first hit


def rank_accuracies(ranks: Tensor, width: int) -> list[list[float]]:
    """How often the candidate of depth d + 1 and rank r is the target's own token, shape [D][K].

    Args:
        ranks: From `measured_ranks`, of all texts.
        width: Likewise.

    Raises:
        ValueError: If there are no places.
    """
    if not ranks.numel():
        raise ValueError("the texts are too short to measure every depth")
    hits = F.one_hot(ranks, width + 1)[..., :width].float()
    return [[round(value, 5) for value in row] for row in hits.mean(dim=0).tolist()]


def right_paths(ranks: Tensor, width: int) -> list[Path]:
    """Each place's ranks down to the first depth where no candidate is right.

    Args:
        ranks: From `measured_ranks`.
        width: Likewise.
    """
    return [tuple(takewhile(lambda rank: rank < width, row)) for row in ranks.tolist()]


def round_seconds(
    build: Callable[[Sequence[Path]], Method], paths: Sequence[Path], prompts: Sequence[Tensor], tokens: int
) -> dict[int, float]:
    """Seconds of a whole round, by nodes drafted, for the sizes of `ROUND_SIZES` that `paths` fills.

    All sizes take turns on every prompt. Of each answer the median round counts, held against the smallest
    size's on the same prompt; of these ratios the median over prompts, times the smallest size's fastest
    answer: what else the machine does in one turn or another does not decide between sizes.

    Args:
        build: An attached method that drafts the given tree.
        paths: Nodes in the order to add them; every prefix is a tree.
        prompts: Prompts, each of shape [P].
        tokens: Tokens to decode per prompt.
    """
    sizes = [size for size in ROUND_SIZES if size <= len(paths)]
    methods = {size: build(paths[:size]) for size in sizes}
    for method in methods.values():
        _whole_rounds(method, prompts[0], tokens)  # warms up, and is not counted
    turns = [
        {size: median(_whole_rounds(method, prompt, tokens)) for size, method in methods.items()}
        for prompt in prompts
    ]
    unit = min(turn[sizes[0]] for turn in turns)
    return {size: unit * median(turn[size] / turn[sizes[0]] for turn in turns) for size in sizes}


@torch.inference_mode()
def _whole_rounds(method: Method, prompt: Tensor, tokens: int) -> list[float]:
    """Seconds of every round whose tree the budget did not cut."""
    clock = _RoundClock()
    got = method.generate(prompt, Budget(tokens, frozenset()), Sampler(Sampling(), prompt.device, 0), clock)
    return [
        end - start
        for start, end, one in zip(clock.starts, clock.ends, got.rounds, strict=True)
        if one.stop != "budget"
    ]


class _RoundClock:
    """A `methods.core.base.Clock` that notes when rounds begin and end; each ends with a host sync of its
    own.
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
