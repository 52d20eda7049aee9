"""What a drafter learns from the target: its distribution, token for token.

Shapes: N rows that predict an answer token, K likeliest tokens of the target, U tokens that may be drafted, d
width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.runtime.sampling import OUTSIDE, DraftHead
from methods.training.rows import LikelyTokens


def distil(drafted: Tensor, likely: LikelyTokens, head: DraftHead) -> tuple[Tensor, dict[str, float]]:
    """`soft_cross_entropy` of drafted rows [N, d], ready for the head."""
    return soft_cross_entropy(draft_logits(drafted, head), likely, head.places(likely.ids))


def draft_logits(drafted: Tensor, head: DraftHead) -> Tensor:
    """Logits [N, U] of drafted rows [N, d] after the final norm, in the precision of the head."""
    return head.lm_head(drafted.to(head.dtype))


def soft_cross_entropy(
    logits: Tensor, likely: LikelyTokens, places: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy of drafts against the target's likeliest tokens at temperature 1, figures to log.

    ``accept`` is the expected acceptance sum_v min(p, q) over those tokens, ``top1`` how often the argmaxes
    agree.

    Args:
        logits: The drafter's, shape [N, U]; a dialogue without answers has no row, and loss 0.
        likely: The target's tokens at the same N rows.
        places: Where they are among the logits, shape [N, K]; `OUTSIDE` for one that cannot be drafted.
    """
    count = max(1, logits.shape[0])  # a mean over no row would be NaN
    probs = likely.probs * (places != OUTSIDE)
    logs = logits.float().log_softmax(dim=-1)
    chosen = logs.gather(1, places.clamp_min(0))
    loss = -(probs * chosen).sum() / count
    with torch.no_grad():
        accept = torch.minimum(probs, chosen.exp()).sum() / count
        top1 = (logs.argmax(dim=-1) == places[:, 0]).sum() / count
    return loss, {"accept": float(accept), "top1": float(top1)}


def hits(logits: Tensor, places: Tensor, step: int) -> dict[str, float]:
    """How often a token is the best candidate, or among the best five, as figures ``top1_k`` and ``top5_k``.

    Args:
        logits: The drafter's, shape [N, U].
        places: Where the token is among the logits, shape [N]; `OUTSIDE` for one that cannot be drafted.
        step: Step or head that the figures are named after (k).
    """
    count = max(1, places.numel())
    best = logits.detach().topk(min(5, logits.shape[-1]), dim=-1).indices == places[:, None]
    return {
        f"top1_{step}": float(best[:, 0].sum()) / count,
        f"top5_{step}": float(best.sum()) / count,
    }
