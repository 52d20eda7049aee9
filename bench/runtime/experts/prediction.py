"""Guesses which experts later layers will need, from what the layer being computed knows.

A guess costs the model a small product at most; a wrong one costs the link a load.

Shapes: R rows, d width, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from bench.runtime.experts.slow_memory import Key
from bench.runtime.linear import rms_norm
from bench.runtime.moe import Moe


class Predictor(Protocol):
    """Names experts that will be needed soon, those needed first at the front."""

    def after(self, layer: int, chosen: Sequence[int], hidden: Tensor) -> Sequence[Key]:
        """Called once a layer's router has chosen.

        Args:
            layer: The layer.
            chosen: Experts of this layer that its rows use.
            hidden: The rows entering its mixture of experts, before the norm, shape [R, d].
        """


class OnDemand:
    """Predicts nothing: experts are loaded when they are needed."""

    def after(self, layer: int, chosen: Sequence[int], hidden: Tensor) -> Sequence[Key]:
        """See `Predictor`."""
        return ()


class PreviousToken:
    """Predicts for the next layer with experts what it used for the previous token.

    Args:
        layers: Layers with experts, ascending.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self._following = dict(zip(layers, [*layers[1:], layers[0]], strict=True))
        self._used: dict[int, tuple[int, ...]] = {}

    def after(self, layer: int, chosen: Sequence[int], hidden: Tensor) -> Sequence[Key]:
        """See `Predictor`."""
        self._used[layer] = tuple(chosen)
        following = self._following[layer]
        return [(following, number) for number in self._used.get(following, ())]


@dataclass(frozen=True, slots=True)
class LowRankMap:
    """A low-rank change that makes rows of one layer resemble those of a later one."""

    inner: Tensor  # [d, r]
    outer: Tensor  # [r, d]
    shift: Tensor  # [d]

    def __call__(self, hidden: Tensor) -> Tensor:
        """Rows [R, d] changed, shape [R, d]."""
        return hidden + hidden @ self.inner @ self.outer + self.shift


class LaterRouter:
    """Asks the routers of later layers now, with the present rows in place of those they will see.

    Args:
        mixtures: The model's mixtures of experts, by layer.
        ahead: Layers between the present one and the one predicted; the first layer with experts also
            predicts for all between.
        experts: How many experts to name per row (k').
        maps: What is done to the rows before, by present and predicted layer; nothing where there is none.
    """

    def __init__(
        self,
        mixtures: Mapping[int, Moe],
        eps: float,
        *,
        ahead: int,
        experts: int,
        maps: Mapping[tuple[int, int], LowRankMap] | None = None,
    ) -> None:
        self._mixtures, self._eps, self._experts = mixtures, eps, experts
        self._maps = maps or {}
        self.pairs = predicted_layers(sorted(mixtures), ahead)

    def after(self, layer: int, chosen: Sequence[int], hidden: Tensor) -> Sequence[Key]:
        """See `Predictor`."""
        named: list[Key] = []
        for later in self.pairs.get(layer, ()):
            change = self._maps.get((layer, later))
            rows, moe = hidden if change is None else change(hidden), self._mixtures[later]
            numbers = moe.route(rms_norm(rows, moe.norm, self._eps), self._experts)[1]
            named += [(later, number) for number in dict.fromkeys(numbers.flatten().tolist())]
        return named


def predicted_layers(layers: Sequence[int], ahead: int) -> dict[int, tuple[int, ...]]:
    """By layer, the later layers whose experts it predicts: the one `ahead` further, and all up to it for
    the first, so that every layer but the first is predicted once.
    """
    pairs = {layer: tuple(layers[place + ahead : place + ahead + 1]) for place, layer in enumerate(layers)}
    pairs[layers[0]] = tuple(layers[1 : ahead + 1])
    return {layer: later for layer, later in pairs.items() if later}
