"""HAMburger with random parts on small models; a bias on the stop head makes groups of every size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.runtime.decoder import Decoder
from bench.runtime.modules import save_module
from methods.hamburger.checkpoint import Checkpoint
from methods.hamburger.draft import Hamburger
from methods.hamburger.groups import Answer
from methods.hamburger.module import HamburgerModel
from methods.hamburger.shape import HamburgerShape
from methods.hamburger.verified import HamburgerVerified
from tests.methods.small import FAMILIES, random_decoder

TUNED_SEED = 7
SETTINGS: dict[str, Any] = {"weights": None, "confidence": 0.5, "max_group": 4, "micro_layers": 2}
SETTINGS |= {"floor": 0.05, "ratio": 0.3, "stop_weight": 0.5}


def unattached(**changes: Any) -> Hamburger:
    more = {
        "position_convention": "last_token",
        "singles": 0.0,
        "random_splits": 0.0,
        "decoded_groups": 0.0,
        "token_confidence": 0.0,
        "merge_delay": 0,
        "distilled": 0.0,
    }
    return Hamburger(**{**SETTINGS, **more, **changes})


def verified(**changes: Any) -> HamburgerVerified:
    return HamburgerVerified(**{**SETTINGS, **changes})


def answer(ids: list[int], prompt: int, sizes: list[int], width: int = 1) -> Answer:
    """An answer with teacher rows of zeros."""
    return Answer(ids, prompt, sizes, True, torch.zeros(len(ids) - prompt, width))


def shape_for(decoder: Decoder) -> HamburgerShape:
    return HamburgerShape.for_model(decoder.config, 4, 2)


def random_model(tuned: Decoder, seed: int = 1) -> HamburgerModel:
    """The whole model: the decoder's weights and random new parts, none of them zero."""
    torch.manual_seed(seed)
    model = HamburgerModel.from_decoder(tuned, shape_for(tuned)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith("model."):
                weight.copy_(torch.randn_like(weight) * (1.0 if weight.dim() == 1 else 0.25))
        stop = model.micro_step_decoder.stop_head[-1]
        stop.weight.mul_(20.0)  # decisions that differ from state to state
        stop.bias.fill_(-5.0)
    return model


def checkpoint(tuned: Decoder, model: HamburgerModel | None = None) -> Checkpoint:
    model = random_model(tuned) if model is None else model
    state = {name: value.detach() for name, value in model.comp_embedder.state_dict().items()}
    micro = {name: value.detach() for name, value in model.micro_step_decoder.state_dict().items()}
    return Checkpoint(tuned, state, micro, model.shape)


def bound(tuned: Decoder | None = None, **changes: Any) -> Hamburger:
    """The method on a tuned model in memory."""
    method = unattached(**changes)
    method.use(checkpoint(random_decoder(seed=TUNED_SEED) if tuned is None else tuned))
    return method


def saved(folder: Path, **changes: Any) -> Hamburger:
    """The method that loads a tuned model from `folder`."""
    tuned = random_decoder(seed=TUNED_SEED)
    model = random_model(tuned)
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    config = FAMILIES["llama"].to_dict() | {"architectures": ["LlamaForCausalLM"]}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"hamburger": model.shape.plain()}))
    return unattached(weights=str(folder), **changes)


def saved_verified(decoder: Decoder, folder: Path, **changes: Any) -> HamburgerVerified:
    """The verified drafter with a module of random weights: hardly a draft is accepted."""
    parts = checkpoint(decoder)
    facts = {"method": "hamburger_verified", "shape": parts.shape.plain()}
    save_module(folder, parts.micro, facts)
    return verified(weights=str(folder), **changes)
