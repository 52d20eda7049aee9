"""What a loss reads: dialogues seen through the frozen target, and the target's likeliest tokens.

Several dialogues form one batch: their rows stand one after the other, and `TrainingRows.sees` keeps them
apart. Whether the rows come from a pass of the target or from a cache on disk makes no difference to a loss.

Shapes: T positions of all dialogues of a batch, M trained positions, K likeliest tokens, V vocabulary, d
width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.runtime.sampling import DraftHead

LIKELIEST = 64
"""Tokens of the target's distribution that are kept (K); all of them where the vocabulary is smaller."""


@dataclass(frozen=True, slots=True)
class LikelyTokens:
    """The target's likeliest next tokens at some positions, at temperature 1.

    Args:
        ids: Likeliest first, shape [M, K], int64.
        probs: Their probabilities in the whole vocabulary, shape [M, K], fp32.
        entropy: Of the whole distribution, in nats, shape [M], fp32.
    """

    ids: Tensor
    probs: Tensor
    entropy: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> LikelyTokens:
        """Of the target's logits, shape [M, V]."""
        logs = logits.float().log_softmax(dim=-1)
        best = logs.topk(min(LIKELIEST, logs.shape[-1]), dim=-1)
        return cls(best.indices, best.values.exp(), -(logs.exp() * logs).sum(dim=-1))

    def __getitem__(self, places: Tensor) -> LikelyTokens:
        """Those at some of the positions, by index or by mask."""
        return LikelyTokens(self.ids[places], self.probs[places], self.entropy[places])


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """One or several dialogues seen through the frozen target.

    Args:
        ids: Token ids, shape [T], int64.
        hidden: Rows entering layer l for every tapped l, each shape [T, d]; key L holds what the final norm
            sees.
        mask: Whether position t is trained: its next token belongs to an answer, shape [T], bool.
        likely: The target's next tokens at the M trained positions, in order.
        head: The head that drafts.
        lengths: Positions of each dialogue, in order; their sum is T.
    """

    ids: Tensor
    hidden: Mapping[int, Tensor]
    mask: Tensor
    likely: LikelyTokens
    head: DraftHead
    lengths: tuple[int, ...]

    @property
    def positions(self) -> Tensor:
        """Position of every row in its dialogue, shape [T]."""
        return torch.cat([torch.arange(length, device=self.ids.device) for length in self.lengths])

    def sees(self, window: int | None) -> Tensor:
        """Whether row r sees row n: one before it in its dialogue, or itself; shape [T, T], bool.

        Args:
            window: Positions that a row sees, itself included; None for all.
        """
        places = torch.arange(self.ids.numel(), device=self.ids.device)
        starts = places - self.positions
        visible = (starts[:, None] <= places) & (places <= places[:, None])
        return visible if window is None else visible & (places > places[:, None] - window)


def packed(parts: list[TrainingRows]) -> TrainingRows:
    """Several dialogues as one batch; they must have the same taps and head."""
    if len(parts) == 1:
        return parts[0]  # not a copy
    return TrainingRows(
        torch.cat([part.ids for part in parts]),
        {layer: torch.cat([part.hidden[layer] for part in parts]) for layer in parts[0].hidden},
        torch.cat([part.mask for part in parts]),
        LikelyTokens(
            torch.cat([part.likely.ids for part in parts]),
            torch.cat([part.likely.probs for part in parts]),
            torch.cat([part.likely.entropy for part in parts]),
        ),
        parts[0].head,
        tuple(length for part in parts for length in part.lengths),
    )
