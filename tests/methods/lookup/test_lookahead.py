"""The grid of guesses, the n-grams it yields, and the pass that advances the grid and verifies."""

from __future__ import annotations

import pytest
import torch

from bench.runtime.sampling import Sampler, Sampling
from methods.core.trees import Tree
from methods.lookup.lookahead import Lookahead, NgramPool, grid_mask, joint_mask, prefix_tree
from tests.methods.small import CPU, prompt, random_decoder, run


def test_a_guess_sees_the_first_row_up_to_its_column_and_its_column_up_to_itself() -> None:
    depths, sees = grid_mask(rows=3, columns=2)  # the root, a | b, c | d, e; the root itself is left out
    assert depths.tolist() == [1, 1, 2, 2, 3]
    assert [row.nonzero().flatten().tolist() for row in sees] == [[0], [1], [0, 2], [1, 3], [0, 2, 4]]


def test_the_branches_have_only_the_root_in_common() -> None:
    tree, (_, grid) = Tree.of_child_counts({"": 2}).sees, grid_mask(rows=2, columns=2)
    both = joint_mask(tree, grid)
    assert torch.equal(both[:3, :3], tree)
    assert torch.equal(both[3:, 3:], grid)
    assert not both[:3, 3:].any()
    assert both[3:, :3].tolist() == [[True, False, False]] * 3


def test_every_guess_is_what_the_target_says_after_its_column() -> None:
    decoder = random_decoder()
    method = Lookahead(ngram=4, window=3, guesses=2)
    method.attach(decoder)
    ids, sampler = prompt(), Sampler(Sampling(), CPU, 0)
    with torch.inference_mode():
        root = method.prefill(ids).argmax(dim=-1)
        method._pool.add((int(root), 5, 6, 7))  # so that the pass verifies a tree as well
        draft = method.draft(root, 12, 50, 200, sampler)
        logits = method.verify(draft, 12)
        assert method._guessed is not None
        for column, guessed in enumerate(method._guessed.tolist()):
            first = method._grid[0][: column + 1]
            text = first + [row[column] for row in method._grid[1:]]
            alone = decoder.prefill(torch.cat([ids, torch.tensor(text)]))
            assert guessed == int(alone.argmax())
        path = decoder.prefill(torch.cat([ids, root, torch.tensor([5, 6])]))
    torch.testing.assert_close(logits[2:3], path, rtol=0, atol=1e-4)


def test_a_round_collects_the_columns_and_moves_the_grid_on() -> None:
    method = Lookahead(ngram=3, window=2, guesses=7)
    method.attach(random_decoder())
    method.prefill(prompt())
    method._grid, method._guessed, method._newest_row = [[1, 2], [3, 4]], torch.tensor([5, 6]), [5, 6]
    method.commit((0,), 12)
    assert method._grid == [[3, 4], [5, 6]]
    assert (method._pool.continuations(1), method._pool.continuations(2)) == ([(3, 5)], [(4, 6)])


def test_the_pool_keeps_the_most_recent_ngrams_of_every_first_token() -> None:
    pool = NgramPool(2)
    for ngram in ((1, 2), (1, 3), (7, 8), (1, 2), (1, 4)):
        pool.add(ngram)
    assert pool.continuations(1) == [(4,), (2,)]
    assert pool.continuations(7) == [(8,)]
    assert pool.continuations(9) == []


@pytest.mark.parametrize(
    ("ngrams", "parents", "tokens"),
    [
        ([], (-1,), []),
        ([(5, 6)], (-1, 0, 1), [5, 6]),
        ([(5, 6), (5, 7), (8, 6)], (-1, 0, 0, 1, 1, 2), [5, 8, 6, 7, 6]),
        ([(5, 6), (5, 6)], (-1, 0, 1), [5, 6]),
        ([()], (-1,), []),
    ],
    ids=["none", "a chain", "common beginnings", "the same twice", "no room"],
)
def test_ngrams_share_their_beginnings(
    ngrams: list[tuple[int, ...]], parents: tuple[int, ...], tokens: list[int]
) -> None:
    assert prefix_tree(ngrams) == (parents, tokens)


def test_a_full_cache_leaves_the_grid_as_it_is_and_the_output_the_same() -> None:
    decoder = random_decoder()  # of 256 slots
    method = Lookahead(ngram=5, window=7, guesses=7)
    method.attach(decoder)
    tight, roomy = run(method, prompt(216), new=40), random_decoder()
    assert tight.counts["lookahead_rows"] < 27 * len(tight.rounds)
    expected = roomy.prefill(prompt(216)).argmax(dim=-1)
    for token in tight.ids:
        assert token == int(expected)
        if roomy.cache.length < 255:
            expected = roomy.step(expected, roomy.cache.length).argmax(dim=-1)


def test_rows_of_the_lookahead_branch_are_counted() -> None:
    method = Lookahead(ngram=5, window=7, guesses=7)
    method.attach(random_decoder())
    got = run(method, prompt(), new=20)
    assert got.counts == {"lookahead_rows": 27 * len(got.rounds)}


@pytest.mark.parametrize("changed", [{"ngram": 2}, {"window": 0}, {"guesses": 0}])
def test_settings_out_of_range_are_refused(changed: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="need ngram >= 3"):
        Lookahead(**{"ngram": 5, "window": 7, "guesses": 7, **changed})
