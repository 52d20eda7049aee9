"""Lookahead decoding: n-grams from parallel Jacobi iterations, arXiv 2402.02057.

Every pass of the target has two branches (section 3). The *lookahead* branch advances a grid of guesses: N -
1 rows, one per past iteration, of W columns. The token in row r and column j stands r + j places behind the
root; a column is a guessed continuation, and what the target says behind its end completes an n-gram. The
*verification* branch checks the n-grams collected so far that begin with the root, as a tree. One mask
separates the branches; rows of the lookahead branch never stay in the cache.

Settings as Spec-Bench runs them: N = 5, W = G = 7 (specs/kangaroo-medusa-and-later-baselines.md section 3.6).
Rounds count the verification branch alone as drafted; ``lookahead_rows`` counts the other one.

Differs from the authors' code in:
- the grid is full from the first pass on, with tokens drawn from the prompt (there: filled in N - 2 passes);
- n-grams that begin alike share their nodes in a tree, and all of an n-gram can be accepted (Spec-Bench's
  copy loses the last token);
- guesses are the target's best tokens under any sampler, and the target picks at every node of the tree
  (`methods.core.acceptance.accept_tree`), so sampling is exact;
- a pass that has no room for the grid leaves it as it is.

Shapes: T tree nodes with the root, E rows of the lookahead branch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.records.model import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from bench.runtime.transfer import upload
from methods.core.base import Budget, Clock
from methods.core.tree_round import TreeDraft, TreeMethod
from methods.core.trees import Tree

Ngram = tuple[int, ...]


class Lookahead(TreeMethod):
    """Tree drafting from the model's own guesses.

    Args:
        ngram: Tokens of an n-gram (N).
        window: Columns of the grid (W).
        guesses: Most n-grams kept and verified per first token (G).
    """

    def __init__(self, *, ngram: int, window: int, guesses: int) -> None:
        if ngram < 3 or window < 1 or guesses < 1:
            raise ValueError(
                f"need ngram >= 3, window >= 1 and guesses >= 1, got {ngram}, {window} and {guesses}"
            )
        self._ngram, self._window, self._guesses = ngram, window, guesses

    def attach(self, decoder: Decoder) -> None:
        self._decoder = decoder
        depths, sees = grid_mask(self._ngram - 1, self._window)
        self._depths, self._sees = depths.to(decoder.device), sees.to(decoder.device)

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        done = super().generate(prompt_ids, budget, sampler, clock)
        return replace(done, counts={"lookahead_rows": self._looked})

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        prompt, random = prompt_ids.tolist(), Random(0)
        self._grid = [random.choices(prompt, k=self._window) for _ in range(self._ngram - 1)]
        self._pool = NgramPool(self._guesses)
        self._new: Tensor | None = None  # what the last pass guessed, shape [W]
        self._looked = 0
        return self._decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        self._grid[0][0] = int(root)
        found = self._pool.behind(self._grid[0][0])
        parents, tokens = prefix_tree(ngram[:room] for ngram in found)
        tree = _tree(parents, root.device).fit(room, slots)
        behind = upload(torch.tensor(tokens[: tree.size - 1], dtype=root.dtype), root.device)
        stop = "budget" if found and room < self._ngram - 1 else "match"
        return TreeDraft(tree, torch.cat([root, behind]), stop)

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        decoder, tree = self._decoder, draft.tree
        guessed = self._depths.numel()
        if base + tree.size + guessed > decoder.capacity:
            self._new = None
            place = decoder.placement.tree(base, tree.offsets, tree.sees)
            return decoder.head(decoder.run_layers(decoder.embed(draft.tokens), place))
        self._looked += guessed
        grid = draft.tokens.new_tensor([token for row in self._grid for token in row][1:])  # [E]
        depths, sees = torch.cat([tree.offsets, self._depths]), beside(tree.sees, self._sees)
        place = decoder.placement.tree(base, depths, sees)
        rows = decoder.run_layers(decoder.embed(torch.cat([draft.tokens, grid])), place)  # [T + E, d]
        logits = decoder.head(torch.cat([rows[: tree.size], rows[-self._window :]]))
        self._new = logits[tree.size :].argmax(dim=-1)  # [W]
        return logits[: tree.size]

    def commit(self, path: tuple[int, ...], base: int) -> None:
        """Collect the completed n-grams and move the grid on by one iteration."""
        if self._new is None:
            return
        self._grid.append(self._new.tolist())
        for column in zip(*self._grid, strict=True):
            self._pool.add(column)
        del self._grid[0]


class NgramPool:
    """N-grams by their first token, the most recent ones.

    Args:
        size: Most per first token.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._behind: dict[int, dict[Ngram, None]] = {}

    def add(self, ngram: Ngram) -> None:
        """Keep an n-gram, or renew it; the one not seen for longest goes."""
        known = self._behind.setdefault(ngram[0], {})
        known.pop(ngram[1:], None)
        known[ngram[1:]] = None
        if len(known) > self._size:
            del known[next(iter(known))]

    def behind(self, token: int) -> list[Ngram]:
        """What followed `token`, the most recent first."""
        return list(reversed(self._behind.get(token, {})))


def grid_mask(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Places and visibility of the grid's tokens, row by row, without the first one, which is the root.

    A token of the first row sees those before it; one further up sees what the first token of its column
    sees, and its column below it.

    Returns:
        Positions relative to the root's, shape [E], and ``sees[i, j]``, shape [E, E], bool; E = rows *
        columns - 1.
    """
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)
    is_before = (row == 0) & (column <= column[:, None])  # in the first row
    is_below = (column == column[:, None]) & (row <= row[:, None])
    return (row + column)[1:], (is_before | is_below)[1:, 1:]


def beside(tree: Tensor, grid: Tensor) -> Tensor:
    """Visibility of a tree [T, T] and a grid [E, E] that share the root alone, shape [T + E, T + E]."""
    size = tree.shape[0]
    both = F.pad(tree, (0, grid.shape[0], 0, grid.shape[0]))
    both[size:, size:] = grid
    both[size:, 0] = True
    return both


def prefix_tree(ngrams: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], list[int]]:
    """N-grams behind a root as a tree that shares common beginnings.

    Returns:
        Parents of all nodes in breadth-first order, the root's -1 first, and tokens of all but the root.
    """
    paths = {tuple(ngram[:length]): None for ngram in ngrams for length in range(1, len(ngram) + 1)}
    ordered = sorted(paths, key=len)  # stable: recent ones first
    index: dict[Ngram, int] = {(): 0, **{path: node for node, path in enumerate(ordered, start=1)}}
    return (-1, *(index[path[:-1]] for path in ordered)), [path[-1] for path in ordered]


@lru_cache(maxsize=1024)  # a few n-grams have few shapes
def _tree(parents: tuple[int, ...], device: torch.device) -> Tree:
    ranks = [parents[:node].count(parent) for node, parent in enumerate(parents)]
    return Tree(parents, ranks, device)
