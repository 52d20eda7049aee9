"""The mixture of experts that some models have in place of a layer's MLP: a router, experts, a shared expert.

The router gives every row a probability for each expert; the row's output is the sum of its `top_k` most
probable experts, weighted by those probabilities. Experts come from an `Experts`: all of them in memory
(`ResidentExperts`), or a store that loads them when they are needed (`bench.runtime.experts`).

Shapes: R rows, d width, E experts, k experts per row, f width of an expert.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.runtime.families import MoeConfig
from bench.runtime.linear import Linear, rms_norm


@dataclass(frozen=True, slots=True)
class Expert:
    """Weights of one expert: a gated MLP without a norm of its own."""

    gate_up: Linear  # [2 f, d]
    down: Linear  # [d, f]

    def __call__(self, rows: Tensor, activation: str) -> Tensor:
        """Its output for normed rows [R, d], shape [R, d]."""
        gate, up = self.gate_up(rows).chunk(2, dim=-1)
        inner = F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")
        return self.down(inner * up)

    @property
    def parameters(self) -> int:
        """Its weights and biases."""
        return self.gate_up.parameters + self.down.parameters


class Experts(Protocol):
    """Where a layer's experts come from."""

    def take(self, chosen: Sequence[int], hidden: Tensor) -> Iterator[tuple[int, Expert]]:
        """Give each chosen expert once, with its number and in any order.

        Args:
            chosen: Numbers of the experts that the router chose for some row, ascending.
            hidden: The rows entering the sub-layer, shape [R, d], from which a store may predict.
        """

    @property
    def parameters(self) -> int:
        """Weights of one expert."""


class ResidentExperts(list[Expert]):
    """All experts of a layer, in memory."""

    def take(self, chosen: Sequence[int], hidden: Tensor) -> Iterator[tuple[int, Expert]]:
        """See `Experts`."""
        return ((number, self[number]) for number in chosen)

    @property
    def parameters(self) -> int:
        """See `Experts`."""
        return self[0].parameters


@dataclass(frozen=True, slots=True)
class Moe:
    """Weights of a mixture-of-experts sub-layer."""

    norm: Tensor  # [d]
    router: Linear  # [E, d]
    experts: Experts
    config: MoeConfig
    shared: Expert | None = None
    shared_gate: Linear | None = None  # [1, d]

    def __call__(self, hidden: Tensor, eps: float, activation: str) -> Tensor:
        """The rows [R, d] with the sub-layer's output added; a row's result does not depend on the others.

        Args:
            hidden: Rows entering the sub-layer, shape [R, d].
            eps: Of the norm.
            activation: ``silu`` or ``gelu_tanh``.
        """
        normed = rms_norm(hidden, self.norm, eps)
        weights, chosen = self.route(normed)
        needed = sorted(set(chosen.flatten().tolist()))
        made = {
            number: self._part(number, expert, normed, weights, chosen, activation)
            for number, expert in self.experts.take(needed, hidden)
        }
        mixed = torch.zeros_like(normed)
        for number in needed:  # always in this order, so that sums round alike however experts arrive
            mixed.index_add_(0, *made[number])
        if self.shared is not None:
            extra = self.shared(normed, activation)
            mixed += extra if self.shared_gate is None else self.shared_gate(normed).sigmoid() * extra
        return hidden + mixed

    def route(self, normed: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Weights and numbers of the experts of each normed row, both [R, k], the most probable first.

        Args:
            normed: Rows after the norm, shape [R, d].
            count: Experts to name; `top_k` by default.
        """
        probabilities = self.router(normed).float().softmax(dim=-1)
        weights, chosen = probabilities.topk(count or self.config.top_k, dim=-1)
        if self.config.is_normalised:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights.to(normed.dtype), chosen

    @property
    def active_parameters(self) -> int:
        """Weights that one row reads."""
        shared = 0 if self.shared is None else self.shared.parameters
        gate = 0 if self.shared_gate is None else self.shared_gate.parameters
        return self.router.parameters + self.config.top_k * self.experts.parameters + shared + gate

    @property
    def idle_parameters(self) -> int:
        """Weights of the experts that one row leaves out."""
        return (self.config.experts - self.config.top_k) * self.experts.parameters

    @staticmethod
    def _part(
        number: int, expert: Expert, normed: Tensor, weights: Tensor, chosen: Tensor, activation: str
    ) -> tuple[Tensor, Tensor]:
        """The rows [N] that chose an expert, and its weighted output for them [N, d]."""
        rows, places = torch.where(chosen == number)
        return rows, expert(normed[rows], activation) * weights[rows, places, None]
