"""What calibration measures: ranks against the target's own greedy text, and whole rounds only."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.train.calibrate.cli import store_tree
from bench.train.calibrate.measure import (
    measured_ranks,
    rank_accuracies,
    right_paths,
    round_seconds,
)
from bench.train.data.heldout import Continuation, continue_greedily
from methods.core.autoregressive import Autoregressive
from methods.core.trees import Tree
from tests.methods.medusa.test_medusa import bound
from tests.methods.small import prompt, random_decoder, run


class Proposing:
    """Proposes the next-but-k token at rank k - 1 of depth k, and token 0 elsewhere."""

    def candidates(self, ids: Tensor, width: int) -> Tensor:
        tokens = torch.zeros(ids.numel(), 2, width, dtype=torch.int64)
        tokens[:-2, 0, 0] = ids[2:]
        tokens[:-3, 1, 1] = ids[3:]
        return tokens


def test_ranks_are_those_of_the_targets_own_choices() -> None:
    ranks = measured_ranks(Proposing(), Continuation(torch.arange(1, 12), start=5), 3)
    assert ranks.tolist() == [[0, 1]] * 4  # after roots 6, 7, 8 and 9, which two more tokens follow
    assert rank_accuracies(ranks, 3) == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert right_paths(ranks, 3) == [(0, 1)] * 4


def test_a_path_ends_where_no_candidate_is_right() -> None:
    ranks = torch.tensor([[0, 1], [2, 0], [1, 2]])
    assert right_paths(ranks, 2) == [(0, 1), (), (1,)]
    assert rank_accuracies(ranks, 2) == [[0.33333, 0.33333], [0.33333, 0.33333]]


def test_prompt_tokens_do_not_count() -> None:
    ids = torch.tensor([1, 2, 3, 4, 0, 0, 0, 0])
    assert measured_ranks(Proposing(), Continuation(ids, start=4), 2).tolist() == [[0, 0], [0, 0]]


def test_texts_too_short_for_a_depth_are_refused() -> None:
    ranks = measured_ranks(Proposing(), Continuation(torch.arange(6), start=4), 2)
    assert ranks.shape == (0, 2)
    with pytest.raises(ValueError, match="too short"):
        rank_accuracies(ranks, 2)


def test_continuations_are_the_targets_greedy_answers() -> None:
    decoder = random_decoder()
    baseline = Autoregressive()
    baseline.attach(decoder)
    full = run(baseline, prompt(), new=20).ids
    text = continue_greedily(bound(decoder), prompt(), 20, frozenset())
    assert text.ids.tolist() == [*prompt().tolist(), *full]
    assert text.start == 12
    ended = continue_greedily(bound(decoder), prompt(), 20, frozenset({full[4]}))
    assert ended.ids.tolist()[12:] == list(full[: full.index(full[4]) + 1])


def test_rounds_are_timed_for_every_size_that_the_nodes_fill() -> None:
    decoder = random_decoder()
    paths = [(0,), (1,), (0, 0), (0, 1), (0, 0, 0), (2,), (3,)]
    got = round_seconds(lambda part: bound(decoder, Tree.of_paths(part)), paths, [prompt()], tokens=12)
    assert sorted(got) == [1, 2, 3, 4, 5, 6]
    assert min(got.values()) > 0


def test_a_tree_is_stored_beside_what_the_module_says_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "module.json"
    path.write_text(json.dumps({"method": "medusa", "tree": [[0]]}))
    store_tree(path, {"tree": [[0], [1]], "calibration": {"positions": 9}})
    expected = {"method": "medusa", "tree": [[0], [1]], "calibration": {"positions": 9}}
    assert json.loads(path.read_text()) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["module.json"]
