"""Whatever is drafted and however much of it is right, both loops yield the target's ids and correct counts.

Drafts are scripted: the target's future up to a chosen depth, and wrong tokens from there on.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import cycle
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.prove.targets import as_decoder, decode, random_model
from bench.records.model import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, NoClock
from methods.core.chain import Draft, generate_chain
from methods.core.tree_round import TreeDraft, generate_tree
from methods.core.trees import Tree

CONTEXT = 48
VOCABULARIES = (9, 64)
CPU = torch.device("cpu")
properties = partial(settings, derandomize=True, deadline=None, database=None)


@lru_cache
def target(vocabulary: int) -> Decoder:
    options = RuntimeOptions(CPU, torch.float32, CONTEXT)
    return as_decoder(random_model("llama", 2, options, vocabulary=vocabulary, seed=0), options)


class Case:
    """A prompt of any length, a budget that fits into the cache, and perhaps an end token in the answer."""

    def __init__(self, draw: Any) -> None:
        self.decoder = target(draw(st.sampled_from(VOCABULARIES)))
        self.vocabulary = self.decoder.config.vocab
        length = draw(st.integers(1, CONTEXT - 1))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 5)))
        self.prompt = torch.randint(self.vocabulary, (length,), generator=generator)
        new = draw(st.integers(1, CONTEXT - length))
        self.future = self._decoded(Budget(new, frozenset()))
        end = draw(st.none() | st.integers(0, new - 1))
        self.budget = Budget(new, frozenset() if end is None else frozenset({self.future[end]}))
        self.expected = self._decoded(self.budget)

    def _decoded(self, budget: Budget) -> tuple[int, ...]:
        baseline = Autoregressive()
        baseline.attach(self.decoder)
        return decode(baseline, self.prompt, budget, Sampler(Sampling(), CPU, 0)).ids

    def known(self, base: int) -> int:
        """Number of answer tokens up to the root, which is at position `base`."""
        return base - self.prompt.numel() + 1

    def wrong(self, place: int, rank: int) -> int:
        """A token that the target does not emit at `place`, different for every rank."""
        return (self.future[place] + 1 + rank) % self.vocabulary

    def check(self, generation: Generation) -> None:
        """Ids equal the target's own; counts add up; decoding on gives what a fresh prefill gives."""
        got = generation.cut(self.budget.max_new_tokens, self.budget.eos_ids)
        assert got.ids == self.expected
        assert 1 + sum(round_.emitted for round_ in got.rounds) == len(got.ids)
        assert all(round_.emitted == round_.accepted + 1 for round_ in got.rounds[:-1])
        ids, decoder = generation.ids, self.decoder
        assert decoder.cache.length == self.prompt.numel() + len(ids) - 1
        if decoder.cache.length < CONTEXT:
            newest = decoder.step(torch.tensor(ids[-1:]), decoder.cache.length)
            fresh = decoder.prefill(torch.cat([self.prompt, torch.tensor(ids)]))
            torch.testing.assert_close(newest, fresh, rtol=0, atol=1e-4)


class ScriptedChain:
    """Drafts `length` tokens of which the first `right` are right, for each pair in turn."""

    def __init__(self, case: Case, script: list[tuple[int, int]]) -> None:
        self._case, self._script = case, cycle(script)
        self.agreed: list[int] = []

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        return self._case.decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        right, length = next(self._script)
        known = self._case.known(base)
        places = range(known, known + min(length, room))
        tokens = [
            self._case.future[place] if index < right else self._case.wrong(place, 0)
            for index, place in enumerate(places)
        ]
        self.agreed.append(min(right, len(tokens)))
        return Draft(torch.tensor(tokens, dtype=torch.int64), "length")

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        return self._case.decoder.step(torch.cat([root, draft.tokens]), base)

    def commit(self, emitted: Tensor, base: int) -> None:
        assert self._case.decoder.cache.length == base + emitted.numel()


class ScriptedTree:
    """Drafts the trees in turn; a node is right if it has the lucky rank and its parent is right."""

    def __init__(self, case: Case, trees: list[Tree], lucky: list[int]) -> None:
        self._case, self._trees = case, cycle(trees)
        self._lucky: Iterator[int] = cycle(lucky)
        self.agreed: list[int] = []

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        return self._case.decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        tree, lucky, known = next(self._trees).fit(room, slots), next(self._lucky), self._case.known(base)
        tokens, right = root.tolist(), {0}
        for node in range(1, tree.size):
            place, rank = known + tree.depths[node] - 1, tree.ranks[node]
            if rank == lucky and tree.parents[node] in right:
                right.add(node)
            tokens.append(self._case.future[place] if rank == lucky else self._case.wrong(place, rank))
        self.agreed.append(max(tree.depths[node] for node in right))
        return TreeDraft(tree, torch.tensor(tokens), "length")

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        decoder = self._case.decoder
        place = decoder.placement.tree(base, draft.tree.offsets, draft.tree.sees)
        return decoder.head(decoder.run_layers(decoder.embed(draft.tokens), place))

    def commit(self, path: tuple[int, ...], base: int) -> None:
        assert self._case.decoder.cache.length == base + len(path)


@st.composite
def cases(draw: Any) -> Case:
    return Case(draw)


@st.composite
def trees(draw: Any) -> Tree:
    """Any tree of up to nine nodes: each node hangs below any earlier one."""
    paths: list[tuple[int, ...]] = [()]
    for _ in range(draw(st.integers(0, 8))):
        parent = draw(st.sampled_from(paths))
        children = sum(path[:-1] == parent for path in paths if path)
        if children < VOCABULARIES[0] - 2:  # siblings must differ, and none may be right by chance
            paths.append((*parent, children))
    return Tree.of_paths(paths[1:])


@properties(max_examples=120)
@given(cases(), st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=5))
def test_chain_loop(case: Case, script: list[tuple[int, int]]) -> None:
    drafter = ScriptedChain(case, script)
    sampler = Sampler(Sampling(), CPU, 0)
    with torch.inference_mode():
        got = generate_chain(drafter, case.decoder, case.prompt, case.budget, sampler, NoClock())
        case.check(got)
    assert [round_.accepted for round_ in got.rounds] == drafter.agreed


@properties(max_examples=120)
@given(
    cases(), st.lists(trees(), min_size=1, max_size=3), st.lists(st.integers(0, 3), min_size=1, max_size=5)
)
def test_tree_loop(case: Case, shapes: list[Tree], lucky: list[int]) -> None:
    drafter = ScriptedTree(case, shapes, lucky)
    sampler = Sampler(Sampling(), CPU, 0)
    with torch.inference_mode():
        got = generate_tree(drafter, case.decoder, case.prompt, case.budget, sampler, NoClock())
        case.check(got)
    assert [round_.accepted for round_ in got.rounds] == drafter.agreed
