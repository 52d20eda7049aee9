"""From logits to tokens: one sampler for target and draft distributions alike.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import UserError

LEAST_TEMPERATURE = 1e-6
"""Lower temperatures than this are refused, except 0: logits divided by one can overflow."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: Divides the logits; 0 is greedy.
        top_k: Keeps the k most likely tokens; 0 keeps all.
        top_p: Keeps the fewest most likely tokens whose probabilities add up to at least this; 1 keeps all.

    Raises:
        ValueError: If a value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise ValueError(
                f"sampling.temperature must be 0 (greedy) or at least {LEAST_TEMPERATURE:g} and finite, "
                f"got {self.temperature}"
            )
        if self.top_k < 0:
            raise ValueError(f"sampling.top_k must be at least 0 (0 keeps all), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p must lie in (0, 1], got {self.top_p}")


class Sampler:
    """Picks tokens under one `Sampling`, with its own seeded generator.

    Args:
        sampling: Temperature and cuts.
        device: Device of the logits.
        seed: Of the generator; the same for every arm.

    Attributes:
        is_greedy: Whether tokens are the argmax, so that no random number is used.
        generator: The source of all random numbers; acceptance rules draw from it too.
    """

    def __init__(self, sampling: Sampling, device: torch.device, seed: int) -> None:
        self.sampling = sampling
        self.is_greedy = sampling.temperature == 0
        self.generator = torch.Generator(device).manual_seed(seed)
        self._peaks: list[Tensor] = []  # largest logit of every row of the target, not read until the end

    def probabilities(self, logits: Tensor) -> Tensor:
        """Distributions after temperature, top-k and top-p.

        Args:
            logits: Shape [R, V].

        Returns:
            Probabilities in at least fp32, shape [R, V]; one-hot at the argmax when greedy.
        """
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        if self.is_greedy:
            best = logits.argmax(dim=-1, keepdim=True)
            return torch.zeros_like(logits).scatter_(-1, best, 1.0)
        logits = logits / self.sampling.temperature
        return _top_p(_top_k(logits, self.sampling.top_k).softmax(dim=-1), self.sampling.top_p)

    def watch(self, logits: Tensor) -> None:
        """Remember whether these logits of the target [R, V] are finite, without waiting for the device."""
        self._peaks.append(logits.amax(dim=-1))

    def require_finite(self) -> None:
        """Refuse the answer if any row of the target's logits since the start held NaN or infinity.

        Called once per answer, after it is complete. A logit of minus infinity counts as a masked token.

        Raises:
            UserError: With what to check.
        """
        if self._peaks and not bool(torch.cat(self._peaks).isfinite().all()):
            raise UserError(
                "the target's logits are not finite (NaN or infinity)",
                "check the weights for NaN and infinity; if they are sound, float16 overflows: "
                "use runtime.dtype=bfloat16 or float32",
            )

    def pick(self, logits: Tensor) -> Tensor:
        """One token of the target per row of its logits [R, V], shape [R]: the argmax (lowest id on ties),
        or a draw.
        """
        self.watch(logits)
        if self.is_greedy:
            return logits.argmax(dim=-1)
        return self.draw(self.probabilities(logits))

    def draw(self, probs: Tensor) -> Tensor:
        """One token id per row of distributions [R, V] that `probabilities` returned, shape [R]."""
        return draw(probs, self.generator)


def draw(probs: Tensor, generator: torch.Generator) -> Tensor:
    """One token id per row of `probs` [R, V], drawn by an exponential race, shape [R].

    argmax(p / e) with e ~ Exp(1) is distributed as p, and the host need not wait for the device.
    """
    noise = torch.empty_like(probs).exponential_(generator=generator)
    noise.clamp_min_(torch.finfo(probs.dtype).tiny)  # 0 / 0 would win the argmax
    return (probs / noise).argmax(dim=-1)


def _top_k(logits: Tensor, k: int) -> Tensor:
    """Logits with all but the `k` largest per row at minus infinity; ties at the border stay in."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    border = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < border, float("-inf"))


def _top_p(probs: Tensor, p: float) -> Tensor:
    """The fewest most likely tokens whose probabilities add up to at least `p`, renormalised."""
    if p >= 1:
        return probs
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered  # probability of all more likely tokens
    kept = ordered.masked_fill(before >= p, 0.0)
    kept = kept / kept.sum(dim=-1, keepdim=True)
    return torch.zeros_like(probs).scatter_(-1, order, kept)
