"""A decoder whose experts come from a fast store instead of lying in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.experts.fast_store import FastStore
from bench.runtime.experts.pinned_memory import PinnedMemory
from bench.runtime.experts.prediction import Predictor
from bench.runtime.experts.slow_memory import ExpertMemory, Key, SlowMemory
from bench.runtime.layers import Layer
from bench.runtime.moe import Expert, Experts, Moe


def mixtures_of(decoder: Decoder) -> dict[int, Moe]:
    """The mixtures of experts of a model by layer.

    Raises:
        UserError: If it has none.
    """
    found = {index: layer.mlp for index, layer in enumerate(decoder.layers) if isinstance(layer.mlp, Moe)}
    if not found:
        raise UserError(
            "this model has no mixtures of experts, so there are no experts to load",
            "use a model that has some, such as model=tiny_moe",
        )
    return found


def slow_memory(decoder: Decoder, bytes_per_s: float) -> ExpertMemory:
    """All experts of a model whose experts are in memory, in a file, or for a GPU in memory of the host."""
    experts: dict[Key, Expert] = {}
    for layer, moe in mixtures_of(decoder).items():
        chosen = range(moe.config.experts)
        found = moe.experts.take(chosen, decoder.embedding[:1])
        experts |= {(layer, number): expert for number, expert in found}
    kind = PinnedMemory if decoder.device.type == "cuda" else SlowMemory
    return kind(experts, bytes_per_s)


def with_store(decoder: Decoder, store: FastStore, predictor: Predictor) -> Decoder:
    """The same model with the same cache, whose experts are taken from a store; see `FastStore`."""
    return with_experts(
        decoder,
        {
            layer: StoredExperts(layer, store, predictor, moe.experts.parameters)
            for layer, moe in mixtures_of(decoder).items()
        },
    )


def with_experts(decoder: Decoder, experts: Mapping[int, Experts]) -> Decoder:
    """The same model with the same cache, whose experts come from others by layer."""
    layers = list(decoder.layers)
    for index, moe in mixtures_of(decoder).items():
        layers[index] = Layer(layers[index].attention, replace(moe, experts=experts[index]))
    weights = replace(decoder.weights, layers=layers)
    return type(decoder)(weights, decoder.cache, decoder.placement)


class StoredExperts:
    """The experts of one layer, from a store; see `bench.runtime.moe.Experts`.

    Args:
        layer: The layer.
        store: Of all layers.
        predictor: Asked once per pass.
        parameters: Weights of one expert.
    """

    def __init__(self, layer: int, store: FastStore, predictor: Predictor, parameters: int) -> None:
        self._layer, self._store, self._predictor, self._parameters = layer, store, predictor, parameters

    def take(self, chosen: Sequence[int], hidden: Tensor) -> Iterator[tuple[int, Expert]]:
        """Experts in the store first; predictions for later layers are queued after the demanded ones."""
        store = self._store
        store.cancel(self._layer, chosen)
        keys = [(self._layer, number) for number in chosen]
        store.demand(keys)
        store.predict(self._predictor.after(self._layer, chosen, hidden))
        return ((key[1], expert) for key, expert in store.take(keys))

    @property
    def parameters(self) -> int:
        """See `bench.runtime.moe.Experts`."""
        return self._parameters
