"""Reads EAGLE-3 drafters as published: one layer, a head for the draft vocabulary, and a config (2503.01840).

Two layouts of the same tensors are in use: the authors' own, and that of the speculators library, which
serving engines load. They differ in the layer's name and in ``config.json``: speculators describe the layer
in ``transformer_layer_config`` and may take the residual after the norm.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.checkpoint_files import read_json
from bench.runtime.families import DecoderConfig
from bench.runtime.modules import require_fit
from methods.eagle3.draft import default_taps
from methods.eagle3.layer import LAYER, Layout

log = logging.getLogger(__name__)

FILES = ("model.safetensors", "pytorch_model.bin")
_SPECULATORS_LAYER = "layers.0."
_TO_TARGET, _IN_DRAFT = "d2t", "t2d"
"""Per draft token its id less its place; per token of the target whether it may be drafted."""
_EMBEDDING = "embed_tokens.weight"
_UNSUPPORTED = ("norm_before_fc", "fc_norm", "norm_output")
_FIX = "use a drafter that was trained for this model"
_BASE = 10000.0
"""Base of the rotary angles where a config names none, as in the authors' code."""


def convert_eagle3(
    published: Mapping[str, Tensor], target: DecoderConfig, file: Path
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and provenance of the module.

    Args:
        published: The published state dict.
        target: Shape of the target.
        file: Path of the file; ``config.json`` lies in the same folder.

    Raises:
        UserError: If there is no config, or anything in the files does not fit the target.
    """
    config = read_json(file.parent / "config.json")
    layer = _layer_config(config, file.parent / "config.json", target)
    tensors = {_named(name): tensor for name, tensor in published.items()}
    if tensors.pop(_EMBEDDING, None) is not None:
        log.info("%s: left out %s, the model's own embedding is used", file, _EMBEDDING)
    ids = _draft_ids(tensors.pop(_TO_TARGET, None), tensors.pop(_IN_DRAFT, None), target.vocab, file)
    if ids is not None and "lm_head.weight" in tensors and len(tensors["lm_head.weight"]) == len(ids):
        order = ids.argsort()
        ids, tensors["lm_head.weight"] = ids[order], tensors["lm_head.weight"][order]
    layout = Layout(
        taps=tuple(config.get("eagle_aux_hidden_state_layer_ids") or default_taps(target.layers)),
        mlp_width=int(layer.get("intermediate_size", target.mlp_width)),
        draft_ids=None if ids is None else tuple(ids.tolist()),
        norm_before_residual=bool(config.get("norm_before_residual", False)),
        rope_theta=_rope_theta(layer, file.parent / "config.json"),
        norm_eps=float(layer.get("rms_norm_eps", target.norm_eps)),
    )
    require_fit(tensors, layout.shapes(target), str(file), _FIX)
    return tensors, {"method": "eagle3", **layout.facts()}


def _named(name: str) -> str:
    """A tensor's name in the authors' layout."""
    is_other = name.startswith(_SPECULATORS_LAYER)
    return f"{LAYER}.{name.removeprefix(_SPECULATORS_LAYER)}" if is_other else name


def _layer_config(config: Mapping[str, Any], file: Path, target: DecoderConfig) -> Mapping[str, Any]:
    """What a config says of the layer; it must have the target's heads, which the tensors do not show.

    Raises:
        UserError: If it says something that this runtime does not decode, or another shape than the target's.
    """
    if used := [name for name in _UNSUPPORTED if config.get(name)]:
        raise UserError(f"{file} sets {used[0]}, which is not supported", "use a drafter without it")
    layer = config.get("transformer_layer_config") or config
    if not isinstance(layer, Mapping):
        raise UserError(f"{file}: transformer_layer_config must be an object", _FIX)
    expected = {
        "num_hidden_layers": 1,
        "hidden_size": target.width,
        "num_attention_heads": target.heads,
        "num_key_value_heads": target.kv_heads,
        "head_dim": target.head_dim,
        "hidden_act": "silu",
    }
    for name, value in expected.items():
        if layer.get(name) not in (None, value):
            raise UserError(f"{file} says {name} {layer[name]}, a drafter of this model has {value}", _FIX)
    return layer


def _rope_theta(layer: Mapping[str, Any], file: Path) -> float:
    """Base of the rotary angles.

    Raises:
        UserError: If the angles are scaled, which drafters' contexts do not need.
    """
    rope = layer.get("rope_parameters") or layer.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"{file} scales the rotary angles ({kind}), which is not supported", _FIX)
    return float(rope.get("rope_theta") or layer.get("rope_theta") or _BASE)


def _draft_ids(
    to_target: Tensor | None, in_draft: Tensor | None, vocabulary: int, file: Path
) -> Tensor | None:
    """Ids [N] of the tokens that the head knows, in its order; None for the whole vocabulary.

    Raises:
        UserError: If the two tables contradict each other or name tokens that the target does not have.
    """
    if to_target is None:
        return None
    ids = to_target.long() + torch.arange(to_target.numel())
    if ids.numel() == 0 or int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise UserError(f"{file}: {_TO_TARGET} names tokens outside of the model's {vocabulary}", _FIX)
    allowed = ids if in_draft is None else in_draft.nonzero()[:, 0]
    if in_draft is not None and (in_draft.numel() != vocabulary or not allowed.equal(ids.sort().values)):
        raise UserError(f"{file}: {_TO_TARGET} and {_IN_DRAFT} do not name the same tokens", _FIX)
    if len(set(ids.tolist())) != ids.numel():
        raise UserError(f"{file}: {_TO_TARGET} names a token twice", _FIX)
    return ids
