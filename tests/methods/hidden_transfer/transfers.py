"""Hidden transfer with random projections, on small models with any transfer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, MistralConfig

from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions, build_decoder
from bench.runtime.modules import save_module
from methods.core.autoregressive import Autoregressive
from methods.core.trees import Tree
from methods.hidden_transfer.draft import HiddenTransfer
from methods.hidden_transfer.module import Projections
from methods.hidden_transfer.pseudo_rows import Transfer
from tests.methods.small import CPU, FAMILIES, SHAPE, UNLIKE_LLAMA, config_of, run

WIDTH, DEPTH = SHAPE["hidden_size"], SHAPE["num_hidden_layers"]
SMALL_TREE = {"": 3, "0": 2, "1": 1, "00": 2}
TRANSFERS = {
    "all at one layer": Transfer((3, 3, 3)),
    "staircase": Transfer((1, 3, 4)),
    "from the embeddings": Transfer((0, 0, 0)),
    "after the last layer": Transfer((6, 6, 6)),
    "mixed to the end": Transfer((2, 6, 6)),
    "chained": Transfer((2, 3, 3), source="chain"),
    "steps isolated": Transfer((2, 2, 4), isolate=True),
}
EVERY_KIND = {
    **FAMILIES,
    "mistral": MistralConfig(**SHAPE, sliding_window=7),
    **{name: config_of(name) for name in UNLIKE_LLAMA},
}
EVERY_TRANSFER = pytest.mark.parametrize("transfer", TRANSFERS.values(), ids=TRANSFERS)


def unattached(tree: Any = None, **changes: Any) -> HiddenTransfer:
    settings: dict[str, Any] = {
        "weights": None,
        "steps": None,
        "enter": None,
        "stride": None,
        "source": "real",
    }
    settings |= {"isolate": False, "tree": tree, "two_phase": False, "anchors": 64, **changes}
    return HiddenTransfer(**settings)


def random_projections(decoder: Decoder, transfer: Transfer) -> Tensor:
    torch.manual_seed(1)
    return Projections(len(transfer.layers), WIDTH).projections.detach().to(decoder.dtype)


def bound(
    decoder: Decoder, transfer: Transfer, tree: dict[str, int] | None = None, *, two_phase: bool = False
) -> HiddenTransfer:
    """The method with random projections: hardly a draft is accepted."""
    method = unattached(two_phase=two_phase)
    method.use(
        decoder, random_projections(decoder, transfer), transfer, Tree.of_child_counts(tree or SMALL_TREE)
    )
    return method


def saved(
    decoder: Decoder, folder: Path, tree: dict[str, int] | None = None, **changes: Any
) -> HiddenTransfer:
    """The method that loads random projections from `folder`."""
    method = unattached(tree)
    torch.manual_seed(1)
    save_module(
        folder, method.trainer().new_module(decoder).state_dict(), method.trainer().provenance(decoder)
    )
    return unattached(tree, weights=str(folder), **changes)


def built(config: Any, dtype: torch.dtype = torch.float32) -> Decoder:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.config.architectures = [type(model).__name__]
    tensors = {name: value.to(dtype, copy=True) for name, value in model.state_dict().items()}
    return build_decoder(model.config, tensors, RuntimeOptions(CPU, dtype, 256))


def own_ids(decoder: Decoder, ids: Tensor, new: int = 40) -> tuple[int, ...]:
    baseline = Autoregressive()
    baseline.attach(decoder)
    return run(baseline, ids, new=new).ids
