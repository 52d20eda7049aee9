"""Measuring what a draft tree depends on: how often each candidate is right, and how long a round takes.

Shapes: T tokens of a text, D depths, K candidates per depth.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from bench.runtime.sampling import Sampler, Sampling
from bench.train.tree_search import Path
from methods.base import Budget, Method
from methods.tree import Calibratable

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
def rank_accuracies(method: Calibratable, texts: Iterable[Continuation], width: int) -> list[list[float]]:
    """How often the candidate of depth d + 1 and rank r is the target's own token, shape [D][K].

    Raises:
        ValueError: If no text is long enough to say anything about some depth.
    """
    hits: Tensor | None = None
    counts: Tensor | None = None
    for text in texts:
        proposed = method.candidates(text.ids, width)  # [T, D, K]
        if hits is None or counts is None:
            hits, counts = torch.zeros(proposed.shape[1:]), torch.zeros(proposed.shape[1], 1)
        for depth in range(1, proposed.shape[1] + 1):
            actual = text.ids[text.start + depth :]  # behind roots at start, start + 1, ..
            rows = proposed[text.start - 1 : text.ids.numel() - depth - 1, depth - 1]
            hits[depth - 1] += (rows == actual[:, None]).sum(dim=0).cpu()
            counts[depth - 1] += actual.numel()
    if hits is None or counts is None or not counts.all():
        raise ValueError("the texts are too short to measure every depth")
    return [[round(value, 5) for value in row] for row in (hits / counts).tolist()]


def round_seconds(
    build: Callable[[Sequence[Path]], Method], paths: Sequence[Path], prompts: Sequence[Tensor], tokens: int
) -> dict[int, float]:
    """Seconds of a whole round, by nodes drafted, for the sizes of `ROUND_SIZES` that `paths` fills.

    All sizes take turns on every prompt. Of each answer the median round counts, of all answers the fastest:
    what else the machine does can only add.

    Args:
        build: An attached method that drafts the given tree.
        paths: Nodes in order of gain; every prefix is a tree.
        prompts: Prompts, each of shape [P].
        tokens: Tokens to decode per prompt.
    """
    sizes = [size for size in ROUND_SIZES if size <= len(paths)]
    methods = {size: build(paths[:size]) for size in sizes}
    for method in methods.values():
        _whole_rounds(method, prompts[0], tokens)  # warms up, and is not counted
    fastest = dict.fromkeys(sizes, math.inf)
    for prompt in prompts:
        for size, method in methods.items():
            fastest[size] = min(fastest[size], median(_whole_rounds(method, prompt, tokens)))
    return fastest


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
    """A `methods.base.Clock` that notes when rounds begin and end; each ends with a host sync of its own."""

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
