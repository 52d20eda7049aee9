"""The trained tensors of M2R2's expert loading: a low-rank change of the residual for every predicted layer.

Shapes: d width, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.experts.prediction import LowRankMap, predicted_layers
from bench.runtime.modules import load_module, load_provenance


def map_shapes(layers: Sequence[int], ahead: int, rank: int, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the trained tensors by name.

    Args:
        layers: Layers with experts, ascending.
        ahead: See `bench.runtime.experts.prediction.LaterRouter`.
        rank: Of a change (r).
        width: Of the model (d).
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, several in predicted_layers(layers, ahead).items():
        for later in several:
            shapes[f"maps.{layer}-{later}.inner"] = (width, rank)
            shapes[f"maps.{layer}-{later}.outer"] = (rank, width)
            shapes[f"maps.{layer}-{later}.shift"] = (width,)
    return shapes


def maps_of(
    tensors: Mapping[str, Tensor], layers: Sequence[int], ahead: int
) -> dict[tuple[int, int], LowRankMap]:
    """The changes by present and predicted layer, from tensors named as in `map_shapes`."""
    return {
        (layer, later): LowRankMap(
            *(tensors[f"maps.{layer}-{later}.{part}"] for part in ("inner", "outer", "shift"))
        )
        for layer, several in predicted_layers(layers, ahead).items()
        for later in several
    }


@dataclass(frozen=True, slots=True)
class StoredChanges:
    """Trained changes, as a folder holds them.

    Args:
        ahead: Layers between the present one and the one predicted.
        maps: By present and predicted layer.
        facts: What is stored beside them.
    """

    ahead: int
    maps: Mapping[tuple[int, int], LowRankMap]
    facts: Mapping[str, Any]


def stored_changes(folder: Path, method: str, layers: Sequence[int], decoder: Decoder) -> StoredChanges:
    """Read the changes of a model whose layers with experts are `layers`.

    Raises:
        UserError: If the folder holds none, or they do not fit the model.
    """
    facts = load_provenance(folder, method)
    ahead, rank = int(facts["ahead"]), int(facts["rank"])
    shapes = map_shapes(layers, ahead, rank, decoder.config.width)
    maps = maps_of(load_module(folder, shapes, decoder.embedding), layers, ahead)
    return StoredChanges(ahead, maps, facts)
