"""The embedded mixture of experts: unsure enough, all experts in use, exact with every shipped method."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.compose.workbench import Target, find_target
from bench.runtime.decoder import Decoder
from bench.runtime.experts.placement import mixtures_of
from bench.runtime.linear import rms_norm
from bench.train.trainers.modules import observe
from methods.core.autoregressive import Autoregressive
from methods.core.base import Method
from methods.expert_loading.loading import AcceleratedExperts
from methods.expert_loading.module import entering_experts
from tests.harness import CONF, ROOT, composed_settings
from tests.methods.small import run
from tests.pairwise import rotated

LOADING = sorted(
    path.stem for path in (CONF / "method").glob("*.yaml") if "methods.expert_loading" in path.read_text()
)
NATURAL = ROOT / "bench" / "assets" / "prompts" / "natural.jsonl"


@cache
def target() -> tuple[Target, Decoder]:
    settings = composed_settings("method=autoregressive", "model=tiny_moe")
    found = find_target(settings.model, settings.runtime)
    return found, found.load(1)


def texts(count: int) -> list[Tensor]:
    """Questions of real text that the model was not trained on, shape [P] each."""
    lines = NATURAL.read_text(encoding="utf-8").splitlines()
    turns = [json.loads(line)["turns"][0] for line in lines]
    chat = target()[0].chat
    return [torch.tensor(chat.prompt_ids([turn], [])[:200]) for turn in turns[:: len(turns) // count][:count]]


@pytest.mark.parametrize(("name", "turn", "slots"), rotated(LOADING, [1, 2], ["null", "12", "3"]))
def test_shipped_methods_give_the_models_ids(name: str, turn: int, slots: str) -> None:
    found, decoder = target()
    settings = composed_settings(
        f"method={name}", "model=tiny_moe", f"method.slots={slots}", "method.megabytes_per_s=2000"
    )
    method, plain = settings.method.build(), Autoregressive()
    method.attach(decoder)
    plain.attach(decoder)
    assert isinstance(method, Method)
    for prompt in found.prompts(2):
        expected = run(plain, prompt, new=16, eos=found.eos_ids)
        assert run(method, prompt, new=16, eos=found.eos_ids).ids == expected.ids


@torch.inference_mode()
def test_on_real_text_the_model_is_unsure_of_its_next_token() -> None:
    _, decoder = target()
    likeliest = []
    for ids in texts(12):
        taps = {decoder.depth: torch.empty(0)}
        decoder.prefill(ids, taps)
        likeliest.append(decoder.head(taps[decoder.depth]).softmax(dim=-1).amax(dim=-1))
    assert float(torch.cat(likeliest).mean()) < 0.8


def test_every_expert_of_every_layer_is_used() -> None:
    found, decoder = target()
    mixtures, eps = mixtures_of(decoder), decoder.config.norm_eps
    used = {layer: torch.zeros(moe.config.experts) for layer, moe in mixtures.items()}
    for ids in (*texts(12), *found.prompts(12)):
        rows = observe(accelerated().trainer(), decoder, ids.tolist(), [True] * ids.numel())
        for layer, moe in mixtures.items():
            chosen = moe.route(rms_norm(entering_experts(layer, rows, decoder), moe.norm, eps))[1]
            used[layer] += torch.bincount(chosen.flatten(), minlength=moe.config.experts)
    assert all(float(counts.min()) > 0 for counts in used.values())


def accelerated() -> AcceleratedExperts:
    made = composed_settings("method=m2r2_moe", "model=tiny_moe").method.build()
    assert isinstance(made, AcceleratedExperts)
    return made


def test_shipped_maps_name_more_of_the_true_experts_than_the_rows_themselves() -> None:
    _, decoder = target()
    trainer = accelerated().trainer()
    module = trainer.new_module(decoder)
    module.load_state_dict(load_file(ROOT / "bench/assets/tiny_moe/modules/m2r2_moe/module.safetensors"))
    rows = observe(trainer, decoder, (ids := texts(1)[0].tolist()), [True] * len(ids))
    figures = trainer.loss(module, rows, decoder)[1]
    assert figures["recall"] > figures["recall_unchanged"]
