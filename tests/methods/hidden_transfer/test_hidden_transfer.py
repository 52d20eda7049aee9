"""Hidden transfer: which rows see which, what is committed to the cache, and the exactness of its output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, NoClock
from methods.core.tree_round import TreeDraft
from methods.core.trees import Tree
from methods.hidden_transfer.draft import DEFAULT_TREE, HiddenTransfer
from methods.hidden_transfer.pseudo_rows import Transfer
from tests.methods.hidden_transfer.transfers import (
    EVERY_KIND,
    EVERY_TRANSFER,
    SMALL_TREE,
    bound,
    built,
    own_ids,
    random_projections,
    unattached,
)
from tests.methods.small import CPU, FAMILIES, prompt, random_decoder, run

# -- visibility ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolate", [False, True], ids=["sees earlier steps", "steps isolated"])
def test_visibility_has_the_block_form(isolate: bool) -> None:
    tree = Tree.of_child_counts(SMALL_TREE)
    method = bound(random_decoder(), Transfer((3, 3, 3), isolate=isolate), SMALL_TREE)
    offsets, sees = method._layout(tree)
    n = tree.size
    block = sees.view(4, n, 4, n).transpose(1, 2)  # step of the row, step of the column, row, column
    for row in range(4):
        assert torch.equal(block[row, 0], tree.sees)
        for column in range(1, 4):
            is_seen = column == row or (column < row and not isolate)
            assert torch.equal(block[row, column], torch.eye(n).bool() & is_seen)
    assert offsets.tolist() == [depth + step for step in range(4) for depth in tree.depths]


def test_each_pseudo_row_sees_its_path_and_its_own_earlier_steps() -> None:
    tree = Tree.of_child_counts(DEFAULT_TREE)
    _, sees = bound(random_decoder(), Transfer((3, 3, 3)), DEFAULT_TREE)._layout(tree)
    for row, seen in enumerate(sees.sum(dim=1).tolist()):
        step, node = divmod(row, tree.size)
        assert seen == tree.depths[node] + 1 + step


def test_the_uncalibrated_tree_has_25_nodes_and_the_root() -> None:
    tree = Tree.of_child_counts(DEFAULT_TREE)
    assert (tree.size, tree.depth, tree.width) == (26, 3, 8)
    assert [tree.depths.count(depth) for depth in (1, 2, 3)] == [8, 11, 6]


@EVERY_TRANSFER
def test_real_rows_do_not_notice_pseudo_rows(transfer: Transfer) -> None:
    decoder = built(FAMILIES["llama"], torch.float64)
    method = bound(decoder, transfer, SMALL_TREE)
    with torch.inference_mode():
        method.prefill(prompt(12))
        draft = method.draft(torch.tensor([5]), 12, 9, 99, Sampler(Sampling(), CPU, 0))
        with_pseudo = method.verify(draft, 12)
        caches = [
            [part[:, 12 : 12 + draft.tree.size].clone() for part in store] for store in decoder.cache._stores
        ]
        decoder.cache.truncate(12)
        place = decoder.placement.tree(12, draft.tree.offsets, draft.tree.sees)
        alone = decoder.head(decoder.run_layers(decoder.embed(draft.tokens), place))
    torch.testing.assert_close(with_pseudo, alone, atol=1e-10, rtol=0)
    for store, (keys, values) in zip(decoder.cache._stores, caches, strict=True):
        torch.testing.assert_close(store[0][:, 12 : 12 + draft.tree.size], keys, atol=1e-10, rtol=0)
        torch.testing.assert_close(store[1][:, 12 : 12 + draft.tree.size], values, atol=1e-10, rtol=0)


# -- the cache -------------------------------------------------------------------------------------------


class Watched(HiddenTransfer):
    """Notes a copy of the committed cache after every round; drafts the future if it is given."""

    future: tuple[int, ...] = ()

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self.prompt = prompt_ids.numel()
        self.caches: list[list[Tensor]] = []
        return super().prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        draft = super().draft(root, base, room, slots, sampler)
        known = base - self.prompt + 1
        right = zip(draft.tree.depths[1:], draft.tree.ranks[1:], strict=True)
        tokens = (
            [(self.future[known + depth - 1] + rank) % 96 for depth, rank in right] if self.future else None
        )
        if tokens is None:
            return draft
        return TreeDraft(draft.tree, torch.cat([root, torch.tensor(tokens, dtype=torch.int64)]), draft.stop)

    def commit(self, path: tuple[int, ...], base: int) -> None:
        super().commit(path, base)
        end = self._decoder.cache.length  # all layers agree
        assert end == base + len(path)
        self.caches.append([store[:, :, :end].clone() for store in self._decoder.cache._stores])


def watched(decoder: Decoder, transfer: Transfer, tree: dict[str, int] | None, **changes: Any) -> Watched:
    method = unattached(**changes)
    method.__class__ = Watched
    assert isinstance(method, Watched)
    method.use(
        decoder, random_projections(decoder, transfer), transfer, Tree.of_child_counts(tree or DEFAULT_TREE)
    )
    return method


@pytest.mark.parametrize("two_phase", [False, True], ids=["combined pass", "two phases"])
@pytest.mark.parametrize("is_oracle", [False, True], ids=["hardly any accepted", "all accepted"])
def test_only_real_rows_are_ever_committed(is_oracle: bool, two_phase: bool) -> None:
    """After every round the cache is that of plain decoding of the same tokens, in every layer."""
    decoder = built(FAMILIES["llama"], torch.float64)
    future = own_ids(decoder, prompt(10), new=60)
    method = watched(decoder, Transfer((2, 3, 3)), SMALL_TREE, two_phase=two_phase)
    method.future = future if is_oracle else ()
    assert run(method, prompt(10), new=25).ids == future[:25]
    with torch.inference_mode():
        decoder.prefill(prompt(10))
        for index, token in enumerate(future[:30]):
            decoder.step(torch.tensor([token]), 10 + index)
    for cache in method.caches:
        for ours, plain in zip(cache, decoder.cache._stores, strict=True):
            torch.testing.assert_close(ours, plain[:, :, : ours.shape[2]], atol=1e-10, rtol=0)


@pytest.mark.parametrize("two_phase", [False, True], ids=["combined pass", "two phases"])
@pytest.mark.parametrize("new", [30, 56], ids=["pseudo rows no longer fit", "filled to the last slot"])
def test_a_nearly_full_cache_ends_drafting_not_decoding(new: int, two_phase: bool) -> None:
    decoder = random_decoder()
    got = run(bound(decoder, Transfer((3, 3, 3)), two_phase=two_phase), prompt(200), new=new)
    assert got.ids == own_ids(decoder, prompt(200), new=new)
    drafted = [step.drafted for step in got.rounds]
    assert drafted == sorted(drafted, reverse=True)
    assert drafted[0] > 0


# -- exactness -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("two_phase", [False, True], ids=["combined pass", "two phases"])
@EVERY_TRANSFER
def test_greedy_ids_are_the_targets_own_wherever_rows_enter(transfer: Transfer, two_phase: bool) -> None:
    decoder = random_decoder()
    assert run(bound(decoder, transfer, two_phase=two_phase), prompt()).ids == own_ids(decoder, prompt())


def test_a_sliding_window_counts_positions_not_slots() -> None:
    decoder = built(EVERY_KIND["mistral"])
    assert run(bound(decoder, Transfer((3, 3, 3))), prompt(20)).ids == own_ids(decoder, prompt(20))


@pytest.mark.parametrize("two_phase", [False, True], ids=["combined pass", "two phases"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("tree", "depth"),
    [({"": 1}, 1), ({"": 1, "0": 1, "00": 1}, 3), (None, 3)],
    ids=["one step", "chain of three", "default tree"],
)
def test_an_oracles_drafts_are_all_accepted(
    tree: dict[str, int] | None, depth: int, family: str, two_phase: bool
) -> None:
    decoder = random_decoder(family)
    method = watched(decoder, Transfer((3, 3, 3)), tree, two_phase=two_phase)
    method.future = own_ids(decoder, prompt(), new=60)
    got = run(method, prompt(), new=1 + 6 * (depth + 1))
    assert got.ids == method.future[: 1 + 6 * (depth + 1)]
    assert [(step.accepted, step.emitted) for step in got.rounds] == [(depth, depth + 1)] * 6
    assert {step.drafted for step in got.rounds} == {method._tree.size - 1}


def test_a_root_without_children_is_plain_decoding() -> None:
    decoder = random_decoder()
    method = unattached()
    method.use(decoder, random_projections(decoder, Transfer((3, 3, 3))), Transfer((3, 3, 3)), Tree.chain(0))
    got = run(method, prompt(), new=20)
    assert got.ids == own_ids(decoder, prompt(), new=20)
    assert [(step.drafted, step.emitted) for step in got.rounds] == [(0, 1)] * 19


def relabelled(tree: Tree) -> Tree:
    """The same tree with siblings, and what lies below them, in reverse order."""
    order = [0]
    for depth in range(1, tree.depth + 1):
        level = [node for node in order if tree.depths[node] == depth - 1]
        order += [child for node in level for child in reversed(tree.children[node])]
    parents = [-1, *(order.index(tree.parents[node]) for node in order[1:])]
    return Tree(parents, [tree.ranks[node] for node in order])


@pytest.mark.parametrize("two_phase", [False, True], ids=["combined pass", "two phases"])
@pytest.mark.parametrize("is_oracle", [False, True], ids=["hardly any accepted", "all accepted"])
def test_the_order_of_siblings_changes_nothing(is_oracle: bool, two_phase: bool) -> None:
    decoder, transfer = random_decoder(), Transfer((2, 3, 3))
    method = watched(decoder, transfer, SMALL_TREE, two_phase=two_phase)
    method.future = own_ids(decoder, prompt(), new=60) if is_oracle else ()
    first = run(method, prompt(), new=25)
    method.use(decoder, random_projections(decoder, transfer), transfer, relabelled(method._tree))
    assert relabelled(method._tree).paths != method._tree.paths
    assert run(method, prompt(), new=25) == first


class CommonNoise(Sampler):
    """Draws whose randomness is a function of the distribution: the same context gives the same token."""

    def pick(self, logits: Tensor) -> Tensor:
        noise = torch.empty(96, 96).exponential_(generator=torch.Generator().manual_seed(7))
        return (self.probabilities(logits) / noise[logits.argmax(dim=-1)]).argmax(dim=-1)


@pytest.mark.parametrize("two_phase", [False, True], ids=["combined pass", "two phases"])
@pytest.mark.parametrize("is_oracle", [False, True], ids=["hardly any accepted", "all accepted"])
def test_sampling_with_common_random_numbers_gives_the_targets_own_sample(
    is_oracle: bool, two_phase: bool
) -> None:
    decoder, sampler = random_decoder(), CommonNoise(Sampling(0.8), CPU, 0)
    baseline = Autoregressive()
    baseline.attach(decoder)
    method = watched(decoder, Transfer((2, 3, 3)), SMALL_TREE, two_phase=two_phase)
    with torch.inference_mode():
        own = baseline.generate(prompt(), Budget(50, frozenset()), sampler, NoClock())
        method.future = own.ids if is_oracle else ()
        got = method.generate(prompt(), Budget(41, frozenset()), sampler, NoClock())
    assert got.ids == own.ids[: len(got.ids)]
    assert len(got.rounds) == 10 if is_oracle else len(got.rounds) > 30
