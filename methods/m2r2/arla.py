"""ARLA, accelerated residual latent attention: a small gate over the accelerated rows of an exit interval.

It says how likely the exit's token is the target's, without a head at the exit (M2R2, arXiv 2502.02040;
dimensions and loss are ours: specs, hidden-transfer-m2r2, section 3.6).

Shapes: n layers of the interval, M tokens, a latent width, d width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT = 64
DOUBT = -4.0
"""First bias of the output: an untrained gate opens for next to nothing."""


class Arla(nn.Module):
    """One head of attention from the last layer's latent row to those of all layers of the interval."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, LATENT, bias=False)
        self.places = nn.Parameter(torch.zeros(layers, LATENT))
        self.query = nn.Linear(LATENT, LATENT, bias=False)
        self.key = nn.Linear(LATENT, LATENT, bias=False)
        self.value = nn.Linear(LATENT, LATENT, bias=False)
        self.out = nn.Linear(LATENT, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, DOUBT)

    def forward(self, rows: Tensor) -> Tensor:
        """Logit that the exit's token is right, shape [M], from accelerated rows [n, M, d]."""
        latent = self.down(F.rms_norm(rows, rows.shape[-1:])) + self.places[:, None]  # [n, M, a]
        last = latent[-1]
        scores = (self.key(latent) * self.query(last)).sum(dim=-1) / LATENT**0.5  # [n, M]
        mixed = (scores.softmax(dim=0)[..., None] * self.value(latent)).sum(dim=0)
        logit: Tensor = self.out(F.silu(mixed + last))[:, 0]
        return logit
