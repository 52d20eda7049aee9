"""The memory of a training: estimated before weights are read, and not less than the training takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from bench.errors import UserError
from bench.runtime.loading import RuntimeOptions, load_config
from bench.runtime.random_weights import empty_decoder
from bench.train.memory.estimate import TrainingMemory, plan_lines, require_memory, training_memory
from bench.train.memory.peak import StorageCounter, peak_bytes
from bench.train.subject import require_memory_for
from bench.train.trainers.modules import observe
from bench.train.trainers.recipe import JointRecipe, ModuleRecipe
from methods.core.base import FullTrainable, Trainable
from tests.harness import composed_settings, save_random_model
from tests.methods.hamburger.hamburgers import unattached
from tests.methods.small import CPU, FAMILIES, prompt, random_decoder

LENGTH = 96
META = RuntimeOptions(torch.device("meta"), torch.float32, 256)
MEMORY = TrainingMemory(8 * 10**9, 10**9, 10**8, 2048, 2 * 10**9, is_half=True)


def empty() -> Any:
    config = FAMILIES["llama"]
    config.architectures = ["LlamaForCausalLM"]
    return empty_decoder(config, META)


def trainable(name: str) -> Any:
    component = composed_settings(f"method={name}", "bench.plan=true").method
    return replace(component, params={**component.params, "weights": None}).build()


@pytest.mark.parametrize(
    "name", ["kangaroo", "kangaroo_tree", "medusa", "hidden_transfer", "m2r2", "hamburger_verified"]
)
def test_a_pass_weighs_at_least_what_it_takes_and_hardly_more(name: str) -> None:
    method, decoder = trainable(name), random_decoder(tier="static")
    assert isinstance(method, Trainable)
    module = method.trainer().new_module(decoder)
    for weight in module.parameters():
        weight.grad = torch.zeros_like(weight)
    ids = prompt(LENGTH).tolist()
    trainer = method.trainer()
    observed = observe(trainer, decoder, ids, [True] * LENGTH)
    trainer.loss(module, observed, decoder)  # weights that compiled products hold alone are copied once, here
    with StorageCounter() as counter:
        rows = observe(trainer, decoder, ids, [True] * LENGTH)
        trainer.loss(module, rows, decoder)[0].backward()
    estimate = training_memory(trainer, empty(), ModuleRecipe(max_tokens=LENGTH, pass_tokens=LENGTH))
    assert estimate.trained == sum(weight.numel() for weight in module.parameters())
    assert estimate.pass_bytes is not None
    assert counter.peak_bytes <= estimate.pass_bytes < 1.05 * counter.peak_bytes


@pytest.mark.parametrize("changes", [{}, {"distilled": 0.5}, {"decoded_groups": 1.0}], ids=str)
def test_a_whole_model_weighs_at_least_what_a_real_batch_takes(changes: dict[str, float]) -> None:
    method, decoder, recipe = (
        unattached(**changes),
        random_decoder(tier="static"),
        JointRecipe(max_tokens=LENGTH, micro_tokens=128),
    )
    assert isinstance(method, FullTrainable)
    model = method.model_trainer().new_model(decoder)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    is_answer = [False] * 8 + [True] * (LENGTH - 8)
    examples = method.model_trainer().examples(model, prompt(LENGTH).tolist(), is_answer, decoder, Random(0))
    with StorageCounter() as counter:
        method.model_trainer().joint_loss(model, examples, decoder)[0].backward()
    estimate = training_memory(method.model_trainer(), empty(), recipe)
    assert estimate.trained == sum(weight.numel() for weight in model.parameters())
    assert estimate.tokens == 128
    assert estimate.pass_bytes is not None
    assert estimate.pass_bytes >= counter.peak_bytes


def test_a_scale_counts_what_lives_at_a_time_and_nothing_from_outside() -> None:
    outside = torch.empty(1000, device="meta")

    def run() -> None:
        first = outside.view(10, 100) * 2  # 4000 bytes
        del first
        second = outside + outside
        second.add_(1)
        third = second[:10].clone()
        assert float(third.sum()) == 0.0  # the given value, not a real number

    assert peak_bytes(run) == 4000 + 40 + 4


def test_sequences_longer_than_the_cache_do_not_count() -> None:
    recipe = ModuleRecipe(max_tokens=9999, pass_tokens=1)
    assert training_memory(trainable("kangaroo").trainer(), empty(), recipe).tokens == 256


def test_a_batch_holds_as_many_dialogues_as_a_pass_takes() -> None:
    recipe = ModuleRecipe(max_tokens=LENGTH, pass_tokens=4 * LENGTH + 1)
    assert training_memory(trainable("kangaroo").trainer(), empty(), recipe).tokens == 4 * LENGTH


def test_a_loss_that_needs_numbers_leaves_its_pass_unknown() -> None:
    trainer = trainable("kangaroo").trainer()

    def numpy_loss(module: Any, rows: Any, decoder: Any) -> Any:
        raise RuntimeError(f"no numbers in {rows.ids.device}")

    trainer.loss = numpy_loss
    estimate = training_memory(trainer, empty(), ModuleRecipe(max_tokens=LENGTH, pass_tokens=LENGTH))
    assert estimate.pass_bytes is None
    assert "a pass over 96 tokens unknown" in estimate.line()
    assert estimate.total_bytes == estimate.certain_bytes > 0


@pytest.mark.parametrize(
    ("room", "is_half", "fix"),
    [
        (12 * 10**9, True, "lower recipe.max_tokens"),
        (12 * 10**9, False, "set runtime.dtype=bfloat16, or lower recipe.max_tokens"),
        (5 * 10**9, True, "take a larger device or a smaller model"),
    ],
    ids=["the pass is too large", "weights in 32 bits", "the weights are too large"],
)
def test_what_cannot_fit_is_refused_with_the_way_out(room: int, is_half: bool, fix: str) -> None:
    memory = replace(MEMORY, is_half=is_half)
    with pytest.raises(UserError, match=r"training needs about 12\.6 GB.*the GPU has free") as caught:
        require_memory(memory, room, "the GPU has free")
    assert caught.value.fix.startswith(fix)
    assert "DOES NOT FIT: has" in plan_lines(memory, room, "RTX 3090")[0]
    assert plan_lines(memory, room, "RTX 3090")[1].strip().startswith("fix")


def test_what_fits_is_not_refused() -> None:
    require_memory(MEMORY, 13 * 10**9, "the GPU has free")
    assert plan_lines(MEMORY, 13 * 10**9, "RTX 3090")[0].endswith("RTX 3090: has 13.0 GB")
    assert plan_lines(None, 1, "cpu") == ["  memory  unknown: neither the checkpoint nor its shape is here"]


def test_a_training_is_refused_before_its_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_random_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    options, method = RuntimeOptions(CPU, torch.float32, 256), trainable("kangaroo")
    assert load_config(folder).num_hidden_layers == 4
    require_memory_for(method.trainer(), ModuleRecipe(), folder, options)
    monkeypatch.setattr("bench.runtime.modules.memory_bytes", lambda device: 1000)
    with pytest.raises(UserError, match=r"this machine has 1\.0 kB"):
        require_memory_for(method.trainer(), ModuleRecipe(), folder, options)
