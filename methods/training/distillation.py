"""What a drafter learns from the target: its distribution, token for token.

Shapes: N rows that predict an answer token, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def soft_cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy of drafts against the target's distribution at temperature 1, and figures to log.

    ``accept`` is the expected acceptance sum_v min(p, q), ``top1`` the agreement of argmaxes.

    Args:
        logits: The drafter's, shape [N, V]; a dialogue without answers has no row, and loss 0.
        target: The target's probabilities, shape [N, V].
    """
    count = max(1, logits.shape[0])  # a mean over no row would be NaN
    logs = logits.float().log_softmax(dim=-1)
    loss = -(target * logs).sum() / count
    with torch.no_grad():
        accept = torch.minimum(target, logs.exp()).sum() / count
        top1 = (target.argmax(dim=-1) == logs.argmax(dim=-1)).sum() / count
    return loss, {"accept": float(accept), "top1": float(top1)}
