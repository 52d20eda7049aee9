"""Optimizer of the base model: Muon for the layer matrices, AdamW for embeddings and norms.

Muon (Jordan et al. 2024) replaces a matrix's momentum by about the nearest orthogonal matrix, found by five
Newton-Schulz steps. Matrices of one shape are stacked and handled in one batched product; each worker takes
its share of the stack and the shares are summed over the workers, so that the cost is paid once.

Shapes: M matrices of one stack, R rows, C columns with R <= C.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95
ADAM_BETAS = (0.9, 0.95)
ADAM_EPS = 1e-8

SumOverWorkers = Callable[[Tensor], None]


def orthogonalize(stack: Tensor) -> Tensor:
    """Approximate U V^T of every matrix, singular values between about 0.7 and 1.2.

    Args:
        stack: Matrices with no more rows than columns, shape [M, R, C].

    Returns:
        Same shape, bf16.
    """
    a, b, c = NEWTON_SCHULZ
    x: Tensor = (stack / (stack.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon:
    """Momentum and orthogonal updates of a set of matrices.

    Args:
        weights: The matrices; `grad` of each must be set when `step` is called.
        rank: This worker's index.
        workers: Number of workers that share the Newton-Schulz products.
        sum_over_workers: Sums a tensor over the workers in place.
    """

    def __init__(
        self, weights: Sequence[nn.Parameter], rank: int, workers: int, sum_over_workers: SumOverWorkers
    ) -> None:
        self.weights = list(weights)
        self.momentum = [torch.zeros_like(weight) for weight in self.weights]
        self._share = (rank, workers)
        self._sum = sum_over_workers
        shapes = sorted({tuple(sorted(weight.shape)) for weight in self.weights})
        self._groups = [
            [i for i, w in enumerate(self.weights) if tuple(sorted(w.shape)) == s] for s in shapes
        ]

    @torch.no_grad()
    def step(self, lr: float, decay: float) -> None:
        """`w <- w (1 - lr decay) - lr sqrt(max(1, rows / columns)) UV^T`, U V^T of the Nesterov momentum."""
        for weight, momentum in zip(self.weights, self.momentum, strict=True):
            momentum.lerp_(_grad(weight), 1 - MOMENTUM)
        for group in self._groups:
            for index, update in zip(group, self._updates(group), strict=True):
                weight = self.weights[index]
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.mul_(1 - lr * decay).add_(update, alpha=-lr * scale)

    def _updates(self, group: list[int]) -> list[Tensor]:
        rank, workers = self._share
        wide = [
            _as_wide(_grad(self.weights[i]).lerp(self.momentum[i], MOMENTUM)) for i in group[rank::workers]
        ]
        result = torch.zeros(
            (len(group), *_as_wide(self.weights[group[0]]).shape), device=self.weights[0].device
        )
        if wide:
            result[rank::workers] = orthogonalize(torch.stack(wide)).float()
        self._sum(result)
        return [
            update if self.weights[i].shape == update.shape else update.mT
            for i, update in zip(group, result, strict=True)
        ]


def _grad(weight: nn.Parameter) -> Tensor:
    if weight.grad is None:
        raise ValueError("every weight must have a gradient, got None: run backward first")
    return weight.grad


def _as_wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


class BaseOptimizer:
    """Muon and AdamW under one learning-rate factor.

    Args:
        model: The model; its layer matrices go to Muon, the rest to AdamW.
        muon_lr: Peak learning rate of the layer matrices.
        adam_lr: Peak learning rate of embeddings and norms.
        decay: Decoupled weight decay of the layer matrices.
        rank: This worker's index.
        workers: Number of workers.
        sum_over_workers: Sums a tensor over the workers in place.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        muon_lr: float,
        adam_lr: float,
        decay: float,
        rank: int,
        workers: int,
        sum_over_workers: SumOverWorkers,
    ) -> None:
        named = dict(model.named_parameters())
        matrices = [w for name, w in named.items() if w.dim() == 2 and "layers." in name]
        others = [w for name, w in named.items() if w.dim() != 2 or "layers." not in name]
        self._peaks = (muon_lr, adam_lr)
        self._decay = decay
        self.muon = Muon(matrices, rank, workers, sum_over_workers)
        self.adam = torch.optim.AdamW(others, lr=adam_lr, betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=0.0)

    def step(self, factor: float) -> None:
        """One update at `factor` times the peak learning rates."""
        muon_lr, adam_lr = self._peaks
        for group in self.adam.param_groups:
            group["lr"] = adam_lr * factor
        self.adam.step()
        self.muon.step(muon_lr * factor, self._decay)

    def state(self) -> dict[str, object]:
        """Everything a resumed run needs, as tensors and plain containers."""
        return {"momentum": self.muon.momentum, "adam": self.adam.state_dict()}

    def load(self, momentum: Sequence[Tensor], adam: dict[str, object]) -> None:
        """Restore what `state` returned."""
        for mine, saved in zip(self.muon.momentum, momentum, strict=True):
            mine.copy_(saved)
        self.adam.load_state_dict(adam)
