"""The rounds in numbers that open `methods.core.chain` and `methods.core.tree_round` are what the loops
do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bench.records.model import Generation, Round
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import Budget, NoClock
from methods.core.chain import Draft, generate_chain
from methods.core.tree_round import TreeDraft, generate_tree
from methods.core.trees import Tree
from tests.methods.small import CPU

PROMPT = torch.arange(5)
TREE = Tree([-1, 0, 0, 1, 1], [0, 0, 1, 0, 1])
TREE_TOKENS = torch.tensor([17, 40, 12, 9, 8])


def says(*tokens: int) -> Tensor:
    """Logits whose argmax is each of the tokens in turn, shape [len(tokens), 64]."""
    return torch.nn.functional.one_hot(torch.tensor(tokens), 64).float()


class CountingCache:
    """Slots only: how many are filled, and which were moved where."""

    def __init__(self) -> None:
        self.length = 5
        self.moved: tuple[int, list[int]] | None = None

    def truncate(self, length: int) -> None:
        self.length = min(self.length, length)

    def keep(self, base: int, path: Tensor) -> None:
        self.moved = base, (base + path).tolist()
        self.length = base + path.numel()


class Documented:
    """Drafts and verifies the documented round once, and notes what it was called with."""

    def __init__(self, draft: Any, target: Tensor, cache: CountingCache) -> None:
        self._draft, self._target, self._cache = draft, target, cache
        self.drafted_at: list[tuple[int, int]] = []  # root token and its position
        self.committed: list[tuple[Any, int, int]] = []  # what was kept, base, cache length

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        return says(17)

    def draft(self, root: Tensor, base: int, *_: Any) -> Any:
        self.drafted_at.append((int(root), base))
        return self._draft

    def verify(self, *_: Any) -> Tensor:
        self._cache.length += self._target.shape[0]
        return self._target

    def commit(self, kept: Any, base: int) -> None:
        self.committed.append((kept, base, self._cache.length))


def decoded(loop: Any, draft: Any, target: Tensor) -> tuple[Generation, Documented, CountingCache]:
    cache = CountingCache()
    drafter = Documented(draft, target, cache)
    decoder: Any = SimpleNamespace(cache=cache, capacity=64)
    sampler = Sampler(Sampling(), CPU, 0)
    got = loop(drafter, decoder, PROMPT, Budget(4, frozenset()), sampler, NoClock())
    return got, drafter, cache


def test_the_chain_round_of_the_docstring() -> None:
    draft = Draft(torch.tensor([40, 8, 23]), "length")
    got, drafter, _ = decoded(generate_chain, draft, says(40, 8, 61, 9))
    assert got.ids == (17, 40, 8, 61)
    assert got.rounds == (Round(drafted=3, accepted=2, emitted=3, depth=3, stop="length"),)
    assert drafter.drafted_at == [(17, 5)]
    assert [(base, length) for _, base, length in drafter.committed] == [(5, 8)]


def test_the_tree_round_of_the_docstring() -> None:
    got, drafter, cache = decoded(
        generate_tree, TreeDraft(TREE, TREE_TOKENS, "length"), says(40, 8, 3, 60, 61)
    )
    assert got.ids == (17, 40, 8, 61)
    assert got.rounds == (Round(drafted=4, accepted=2, emitted=3, depth=2, stop="length"),)
    assert drafter.drafted_at == [(17, 5)]
    assert drafter.committed == [((0, 1, 4), 5, 8)]
    assert cache.moved == (7, [9])  # slots 5 and 6 already hold their nodes
    assert TREE.offsets.tolist() == [0, 1, 1, 2, 2]
