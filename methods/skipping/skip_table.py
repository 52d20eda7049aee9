"""The dynamic programme of CLaSp and KnapSpec: which layers to leave out, by the rows that remain.

Items (layers, or their halves) are decided one after the other. For every total weight of what was left out
so far, the table keeps one version of the rows: the one closest in cosine to the rows of the full model at
the same depth. The next item is run on every version, or left out of it. Keeping a single version per weight
makes this an approximation: the version that is closest halfway need not be so at the end (CLaSp, arXiv
2505.24196; KnapSpec, arXiv 2602.20217).

Knows nothing of decoders: the caller runs the items.

Shapes: T tokens, d width, B versions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST = -2.0
"""Below every cosine: nothing is dropped."""


@dataclass(frozen=True, slots=True)
class SkipTable:
    """The last row of the table.

    Args:
        weights: Total weight of what each version leaves out, ascending, B numbers; the first is 0.
        skipped: Indices of the items that each version leaves out.
        states: Rows after the last item, shape [B, T, d]; the first are the full model's own.
        scores: Mean cosine of each version's rows to those of the full model.
    """

    weights: tuple[int, ...]
    skipped: tuple[tuple[int, ...], ...]
    states: Tensor
    scores: tuple[float, ...]


def fill_table(
    start: Tensor,
    weights: Sequence[int | None],
    run: Callable[[int, Tensor], Tensor],
    budget: int,
    least: float = LOWEST,
    goal_weight: int = 0,
) -> SkipTable:
    """Decide all items; one host sync per item.

    Args:
        start: Rows before the first item, shape [T, d].
        weights: Of each item, at least 1; None for an item that must run.
        run: Gives the rows [B, T, d] after an item, from its index and the rows before it.
        budget: Most weight to leave out.
        least: Versions whose score falls below this are dropped; the full model's never is.
        goal_weight: Versions that can no longer reach this total weight are dropped likewise.

    Returns:
        For every total weight that was reached, the version that was kept. Where running an item and leaving
        another out tie, the one that runs the newest item is kept.
    """
    totals, skipped, states = [0], [tuple[int, ...]()], start[None]
    scores = [1.0]
    for item, weight in enumerate(weights):
        candidates = run(item, states)
        goal = candidates[:1]  # the first version leaves nothing out
        if weight is not None:
            fits = [n for n, total in enumerate(totals) if total + weight <= budget]
            candidates = torch.cat([candidates, states[fits]])
            totals = totals + [totals[n] + weight for n in fits]
            skipped = skipped + [(*skipped[n], item) for n in fits]
        scores = F.cosine_similarity(candidates.float(), goal.float(), dim=-1).mean(dim=-1).tolist()
        closest = _closest(totals, scores, least)
        rest = sum(weight for weight in weights[item + 1 :] if weight is not None)
        order = [closest[total] for total in sorted(closest) if not total or total + rest >= goal_weight]
        totals, skipped = [totals[n] for n in order], [skipped[n] for n in order]
        scores = [scores[n] for n in order]
        states = candidates[order]
    return SkipTable(tuple(totals), tuple(skipped), states, tuple(scores))


def _closest(totals: Sequence[int], scores: Sequence[float], least: float) -> dict[int, int]:
    """The best candidate for every total weight; the first on ties. Candidate 0 always stays."""
    best = {0: 0}
    for n, (total, score) in enumerate(zip(totals, scores, strict=True)):
        if score >= least and (total not in best or score > scores[best[total]]):
            best[total] = n
    return best
