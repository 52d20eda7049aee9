"""Lookahead decoding, arXiv 2402.02057: drafts from n-grams that the target guesses on the side.

Every pass of the target has two branches (section 3).

The *lookahead* branch keeps a grid of guesses, N - 1 rows (one per past iteration) by W columns. The token in
row r and column j is guessed to stand r + j positions after the root. Read from the first row to the last, a
column is a guessed continuation; the target's choice after its last token completes it to an n-gram, and
these W choices become the newest row of the grid (a parallel Jacobi iteration).

The *verification* branch drafts: the collected n-grams that begin with the root are verified as a tree.

One mask keeps the branches apart, and rows of the lookahead branch never stay in the cache. Settings as
Spec-Bench runs them: N = 5, W = G = 7. Rounds count only the verification branch as drafted; the rows of the
lookahead branch are counted in ``lookahead_rows``.

Differs from the authors' code in:
- the grid is full from the first pass on, with random prompt tokens (there, filled within N - 2 passes);
- n-grams with a common beginning share nodes of the tree, and all tokens of an n-gram can be accepted
  (Spec-Bench's copy loses the last token);
- guesses are the target's most likely tokens under any sampler, and the target picks at every node of the
  tree (`methods.core.acceptance.accept_tree`), so sampling is exact;
- if there are too few free cache slots for the grid, a pass runs without it and the grid stays as it is.

Shapes: T tree nodes with the root, E rows of the lookahead branch, W columns, V vocabulary.
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
from bench.runtime.sampling import DraftVocab, Sampler
from bench.runtime.transfer import upload
from methods.core.acceptance import Accepted, accept_tree, follow
from methods.core.base import Budget, Clock
from methods.core.tree_round import TreeDraft, TreeMethod, generate_tree
from methods.core.trees import Tree

Ngram = tuple[int, ...]


class Lookahead(TreeMethod):
    """Tree drafting from the model's own guesses.

    Args:
        ngram: Length of an n-gram in tokens (N).
        window: Columns of the grid (W).
        guesses: Most n-grams kept and verified per first token (G).
        draft_vocab: How many of the most frequent tokens may be guessed (N); None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    def __init__(
        self,
        *,
        ngram: int,
        window: int,
        guesses: int,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        if ngram < 3 or window < 1 or guesses < 1:
            raise ValueError(
                f"need ngram >= 3, window >= 1 and guesses >= 1, got {ngram}, {window} and {guesses}"
            )
        self._ngram, self._window, self._guesses = ngram, window, guesses
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)

    def attach(self, decoder: Decoder) -> None:
        self._decoder, self._head = decoder, self._vocab.head(decoder)
        depths, sees = grid_mask(self._ngram - 1, self._window)
        self._grid_offsets, self._grid_sees = depths.to(decoder.device), sees.to(decoder.device)

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        generation = generate_tree(self, self._decoder, prompt_ids, budget, sampler, clock, rule=self._accept)
        return replace(generation, counts={"lookahead_rows": self._lookahead_rows})

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        prompt, random = prompt_ids.tolist(), Random(0)
        self._grid = [random.choices(prompt, k=self._window) for _ in range(self._ngram - 1)]
        self._pool = NgramPool(self._guesses)
        self._guessed: Tensor | None = None  # newest row of the grid, shape [W]; None after a pass without it
        self._root: int | None = None  # the newest token, once a round has read it
        self._lookahead_rows = 0
        return super().prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        first = int(root) if self._root is None else self._root
        continuations = self._pool.continuations(first)
        parents, tokens = prefix_tree(ngram[:room] for ngram in continuations)
        tree = _tree(parents, root.device).fit(room, slots)
        self._grid[0][0] = first
        below_root = tokens[: tree.size - 1]
        grid = [token for row in self._grid for token in row][1:]
        both = upload(torch.tensor([*below_root, *grid], dtype=root.dtype), root.device)
        self._grid_ids = both[len(below_root) :]  # [E]
        stop = "budget" if continuations and room < self._ngram - 1 else "match"
        return TreeDraft(tree, torch.cat([root, both[: len(below_root)]]), stop)

    def verify(self, draft: TreeDraft, base: int) -> Tensor:
        decoder, tree = self._decoder, draft.tree
        grid_rows = self._grid_offsets.numel()
        if base + tree.size + grid_rows > decoder.capacity:
            self._guessed = None
            return super().verify(draft, base)
        self._lookahead_rows += grid_rows
        offsets = torch.cat([tree.offsets, self._grid_offsets])
        place = decoder.placement.tree(base, offsets, joint_mask(tree.sees, self._grid_sees))
        ids = torch.cat([draft.tokens, self._grid_ids])
        rows = decoder.run_layers(decoder.embed(ids), place)  # [T + E, d]
        verified, guessing = rows[: tree.size], rows[-self._window :]
        if not self._head.is_whole:
            self._guessed = self._head.best(self._head(guessing), 1)[:, 0]  # [W]
            return decoder.head(verified)
        logits = decoder.head(torch.cat([verified, guessing]))  # one product where both read the whole head
        self._guessed = logits[tree.size :].argmax(dim=-1)  # [W]
        return logits[: tree.size]

    def _accept(self, tree: Tree, tokens: Tensor, target_logits: Tensor, sampler: Sampler) -> Accepted:
        """The rule `accept_tree`; the newest guesses are read in the same copy to the host."""
        if self._guessed is None:
            accepted = accept_tree(tree, tokens, target_logits, sampler)
        else:
            picks, size = sampler.pick(target_logits), tree.size
            numbers = torch.cat([tokens, picks, self._guessed]).tolist()  # the one host sync of the round
            self._newest_row = numbers[2 * size :]
            accepted = follow(tree, numbers[:size], numbers[size : 2 * size])
        self._root = accepted.emitted[-1]
        return accepted

    def commit(self, path: tuple[int, ...], base: int) -> None:
        """Collect the completed n-grams; the newest row joins the grid and the oldest leaves it."""
        if self._guessed is None:
            return
        self._grid.append(self._newest_row)
        for column in zip(*self._grid, strict=True):
            self._pool.add(column)
        del self._grid[0]


class NgramPool:
    """The most recent n-grams by their first token.

    Args:
        size: Most n-grams per first token.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._continuations: dict[int, dict[Ngram, None]] = {}

    def add(self, ngram: Ngram) -> None:
        """Store an n-gram as the most recent of its first token; beyond `size` drop the least recent."""
        known = self._continuations.setdefault(ngram[0], {})
        known.pop(ngram[1:], None)
        known[ngram[1:]] = None
        if len(known) > self._size:
            del known[next(iter(known))]

    def continuations(self, token: int) -> list[Ngram]:
        """The n-grams of `token` without it, the most recent first."""
        return list(reversed(self._continuations.get(token, {})))


def grid_mask(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Positions and mask of the grid's tokens, row by row, without the first one, which is the root.

    A token of the first row sees the tokens before it in that row. A token of a later row sees what the first
    token of its column sees, and the tokens of its column in earlier rows.

    Returns:
        Positions relative to the root's, shape [E], and ``sees[i, j]``, shape [E, E], bool; E = rows *
        columns - 1.
    """
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)
    is_before = (row == 0) & (column <= column[:, None])  # in the first row
    is_below = (column == column[:, None]) & (row <= row[:, None])
    return (row + column)[1:], (is_before | is_below)[1:, 1:]


def joint_mask(tree: Tensor, grid: Tensor) -> Tensor:
    """Mask of a tree [T, T] and a grid [E, E] that have only the root in common, shape [T + E, T + E]."""
    size = tree.shape[0]
    both = F.pad(tree, (0, grid.shape[0], 0, grid.shape[0]))
    both[size:, size:] = grid
    both[size:, 0] = True
    return both


def prefix_tree(ngrams: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], list[int]]:
    """A tree of continuations of the root, in which equal beginnings share their nodes.

    Returns:
        Parents of all nodes in breadth-first order, the root's -1 first, and tokens of all but the root.
    """
    paths = {tuple(ngram[:length]): None for ngram in ngrams for length in range(1, len(ngram) + 1)}
    ordered = sorted(paths, key=len)  # stable: recent n-grams first
    index: dict[Ngram, int] = {(): 0, **{path: node for node, path in enumerate(ordered, start=1)}}
    return (-1, *(index[path[:-1]] for path in ordered)), [path[-1] for path in ordered]


@lru_cache(maxsize=1024)  # a few n-grams have few shapes
def _tree(parents: tuple[int, ...], device: torch.device) -> Tree:
    ranks = [parents[:node].count(parent) for node, parent in enumerate(parents)]
    return Tree(parents, ranks, device)
