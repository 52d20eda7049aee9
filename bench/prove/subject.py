"""From a configured method to an attached one, with its shipped modules or with random ones.

Nothing here knows a method by name. A trainable method tells its module (`methods.core.base.Trainable`); any
other is attached as configured. What a method refuses is the reason why it cannot be proved there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.compose.components import Component, resolve_path
from bench.errors import UserError
from bench.runtime.checkpoint_files import read_json
from bench.runtime.decoder import Decoder
from bench.runtime.modules import PROVENANCE_FILE, save_module
from methods.core.base import Method, Trainable

DEPTHS = (4, 8, 16, 32)
"""Depths of random models, smallest first: settings that name layers may need a deeper one."""


def attach_shipped(component: Component, decoder: Decoder) -> Method:
    """The method as configured, on `decoder`.

    Raises:
        UserError: If it cannot be built or does not fit the model.
    """
    method: Method = component.build()
    method.attach(decoder)
    return method


def attach_random(component: Component, decoder: Decoder, seed: int) -> Method:
    """The method with modules of random weights where it has any, on `decoder`.

    A method that drafts frequent tokens alone gets a random list, shorter than this model's vocabulary.

    Raises:
        UserError: If it cannot be built, does not fit the model, or has modules that it cannot make.
    """
    if component.params.get("draft_vocab") is None or "frequent_tokens" not in component.params:
        return _attach_random(component, decoder, seed)
    vocabulary = decoder.config.vocab
    size = min(int(component.params["draft_vocab"]), vocabulary - vocabulary // 6)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "frequent_tokens.json"
        ids = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed)).tolist()
        file.write_text(json.dumps({"vocabulary": vocabulary, "ids": ids}))
        drafted = {"draft_vocab": size, "frequent_tokens": str(file)}
        return _attach_random(replace(component, params={**component.params, **drafted}), decoder, seed)


def _attach_random(component: Component, decoder: Decoder, seed: int) -> Method:
    if "weights" not in component.params:
        return attach_shipped(component, decoder)
    fresh = _with_weights(component, None).build()
    if not isinstance(fresh, Trainable):
        return attach_shipped(component, decoder)
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trainer = fresh.trainer()
        facts = {**_shipped_facts(component), **trainer.provenance(decoder)}
        save_module(Path(folder), trainer.new_module(decoder).state_dict(), facts)
        return attach_shipped(_with_weights(component, folder), decoder)


def first_fit(
    component: Component, build: Callable[[int], Decoder], seed: int, depths: Iterable[int] = DEPTHS
) -> tuple[int, Method]:
    """The method with random modules on the shallowest model that it accepts, and that model's depth.

    Raises:
        UserError: If it accepts none; the message is about the deepest.
    """
    refusal: UserError | None = None
    for depth in depths:
        try:
            return depth, attach_random(component, build(depth), seed)
        except UserError as error:
            refusal = error
    assert refusal is not None
    raise refusal


def _shipped_facts(component: Component) -> dict[str, Any]:
    """What the shipped modules record beyond what the weights depend on, such as a calibrated tree."""
    path = Path(resolve_path(str(component.params["weights"]))) / PROVENANCE_FILE
    return read_json(path) if path.is_file() else {}


def _with_weights(component: Component, folder: str | None) -> Component:
    return replace(component, params={**component.params, "weights": folder})
