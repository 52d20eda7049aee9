"""Kangaroo's tree: how it grows, its caches in every round, and that a perfect adapter is always right."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.modules import save_module
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive
from methods.core.tree_round import TreeDraft
from methods.core.trees import GrowingMarks, Tree
from methods.kangaroo.tree import KangarooTree, _Beam, _TreeDrafter
from tests.methods.small import FAMILIES, prompt, random_decoder, run

EXIT = 2


def kangaroo_tree(**changes: Any) -> KangarooTree:
    settings = {"weights": None, "exit_layer": EXIT, "depth": 3, "width": 3, "threshold": 0.02}
    return KangarooTree(**{**settings, **changes})


def saved(decoder: Decoder, folder: Path, **changes: Any) -> KangarooTree:
    """Kangaroo-tree that loads an adapter of random weights from `folder`."""
    torch.manual_seed(1)
    tensors = kangaroo_tree().trainer().new_module(decoder).state_dict()
    save_module(folder, tensors, {"method": "kangaroo", "exit_layer": EXIT})
    return kangaroo_tree(weights=str(folder), **changes)


def bound(decoder: Decoder, **changes: Any) -> KangarooTree:
    torch.manual_seed(1)
    method = kangaroo_tree(**changes)
    method.use(decoder, method.trainer().new_module(decoder).state_dict(), EXIT)
    return method


def logits(*rows: list[float]) -> Tensor:
    return torch.tensor(rows).log()


def test_the_best_children_above_the_threshold_enter_the_next_level() -> None:
    beam = _Beam(width=2, threshold=0.15, depth=4)
    beam.start()
    tokens, is_sure = beam.extend(logits([0.6, 0.1, 0.3]), 99)
    assert (tokens.tolist(), is_sure) == ([0, 2], True)
    tokens, is_sure = beam.extend(logits([0.2, 0.5, 0.3], [0.9, 0.05, 0.05]), 99)
    assert (tokens.tolist(), is_sure) == ([1, 0], True), "score 0.30 and 0.27; 0.18 is third"
    assert (beam.parents, beam.ranks) == ([-1, 0, 0, 1, 2], [0, 0, 1, 0, 0])


def test_the_top_chain_goes_on_even_if_others_score_higher() -> None:
    beam = _Beam(width=1, threshold=0.2, depth=4)
    beam.start()
    beam.extend(logits([0.6, 0.4]), 99)
    tokens, is_sure = beam.extend(logits([0.5, 0.5]), 99)
    assert (tokens.tolist(), is_sure) == ([0], True)
    tokens, is_sure = beam.extend(logits([0.4, 0.6]), 99)
    assert (tokens.tolist(), is_sure) == ([1], False), "score 0.18: kept, and the last"


def test_free_slots_limit_a_level_and_the_chain_stays_in() -> None:
    beam = _Beam(width=3, threshold=0.0, depth=4)
    beam.start()
    beam.extend(logits([0.3, 0.4, 0.3]), 2)
    assert len(beam.parents) == 3
    tokens, _ = beam.extend(logits([0.1, 0.2, 0.7], [0.0, 1.0, 0.0]), 1)
    assert tokens.tolist() == [2]
    assert beam.parents[-1] == 1


def check_stores(drafter: _TreeDrafter, base: int) -> None:
    lengths = set(drafter._decoder.cache.lengths)
    assert lengths == {base}
    assert drafter._adapter.cache.length == base - drafter._carried.shape[0]


class Checked(_TreeDrafter):
    """The drafter as it is, with its caches checked in every round."""

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        check_stores(self, base)
        return super().draft(root, base, room, slots, sampler)


class Perfect(Checked):
    """The adapter is replaced by the remaining layers of the target."""

    def _shallow(self, marks: GrowingMarks, tokens: Tensor, base: int, first: int) -> Tensor:
        self._seen = base, marks.offsets, marks.sees
        return super()._shallow(marks, tokens, base, first)

    def _adapt(self) -> Tensor:
        super()._adapt()
        decoder = self._decoder
        place = decoder.placement.tree(*self._seen)
        return decoder.head(decoder.run_layers(torch.cat(self._rows), place, EXIT))[self._adapted :]


def replaced(method: KangarooTree, kind: type[_TreeDrafter]) -> KangarooTree:
    old = method.drafter
    method.drafter = kind(old._decoder, old._adapter, old._head, old._exit, old._beam, old._prefill)
    return method


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", [1, 3], ids=["chain", "tree"])
def test_a_perfect_adapter_has_every_round_accepted(family: str, width: int) -> None:
    decoder = random_decoder(family)
    baseline = Autoregressive()
    baseline.attach(decoder)
    method = replaced(bound(decoder, width=width, threshold=0.0), Perfect)
    got = run(method, prompt(10), new=33)
    assert got.ids == run(baseline, prompt(10), new=33).ids
    assert [(round_.depth, round_.accepted) for round_ in got.rounds] == [(3, 3)] * 8
    for round_ in got.rounds:  # three levels of `width`, and the chain where it is not among them
        assert 3 * width <= round_.drafted <= 3 * width + (width > 1) * 2


@pytest.mark.parametrize("threshold", [0.0, 0.05, 1.0])
def test_a_random_adapter_costs_nothing_but_time(threshold: float) -> None:
    decoder = random_decoder()
    baseline = Autoregressive()
    baseline.attach(decoder)
    got = run(replaced(bound(decoder, threshold=threshold), Checked), prompt(10), new=40)
    assert got.ids == run(baseline, prompt(10), new=40).ids
    if threshold == 1.0:
        assert {(round_.drafted, round_.stop) for round_ in got.rounds[:-1]} == {(1, "confidence")}


def marks_of(tree: Tree) -> GrowingMarks:
    marks = GrowingMarks(tree.offsets)
    marks.offsets, marks.sees = tree.offsets, tree.sees
    return marks


def test_the_adapter_sees_each_node_as_it_sees_a_text() -> None:
    """Draft logits of a tree's level equal those of the adapter over the node's whole path, row by row."""
    decoder = random_decoder()
    method = bound(decoder)
    drafter = method.drafter
    ids = prompt(10)
    tree = Tree.of_paths([(0,), (1,), (0, 0)])
    tokens = torch.tensor([5, 6, 7, 8])
    with torch.inference_mode():
        drafter.prefill(ids)
        drafter._rows, drafter._adapted, got = [], 0, []
        for first, end in ((0, 1), (1, 3), (3, 4)):
            part = tree.fit(9, end)
            drafter._rows.append(drafter._shallow(marks_of(part), tokens[first:end], 10, first))
            got.append(drafter._adapt())
            drafter._adapted = end
        for node, logit in enumerate(torch.cat(got)):
            text = torch.cat([ids, tokens[list(tree.route(node))]])
            drafter.prefill(text[:-1])
            drafter._rows, drafter._adapted = [], 0
            drafter._rows.append(drafter._shallow(GrowingMarks(text), text[-1:], text.numel() - 1, 0))
            alone = drafter._adapt()[0]
            torch.testing.assert_close(logit, alone, atol=1e-4, rtol=0)


def test_a_tree_that_grows_has_the_marks_of_the_whole_one() -> None:
    tree = Tree.of_paths([(0,), (1,), (0, 0), (1, 0), (1, 1), (1, 0, 0)])
    marks, first = GrowingMarks(tree.offsets), 1
    for depth, end in ((1, 3), (2, 6), (3, 7)):
        marks.add(torch.tensor(tree.parents[first:end]), depth)
        first = end
    assert torch.equal(marks.offsets, tree.offsets)
    assert torch.equal(marks.sees, tree.sees)


def test_drafting_stays_within_the_cache() -> None:
    decoder = random_decoder()
    ids = prompt(decoder.capacity - 12)
    got = run(bound(decoder, threshold=0.0), ids, new=12)
    assert len(got.ids) == 12


def test_sampling_is_repeatable_and_fills_the_budget() -> None:
    decoder = random_decoder()
    first, second = (
        run(bound(decoder), prompt(10), new=25, sampling=Sampling(1.0), seed=5).ids for _ in range(2)
    )
    assert first == second
    assert len(first) == 25
