"""The generic trainer: what it writes, how it resumes, what it refuses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.draft_head import DraftHead
from bench.runtime.modules import save_module
from bench.train.trainers.loop import Dialogue
from bench.train.trainers.modules import Example, ModuleTraining, observed, train_module
from bench.train.trainers.recipe import ModuleRecipe
from methods.core.autoregressive import Autoregressive
from methods.core.base import Trainable
from methods.kangaroo.draft import Kangaroo
from tests.methods.small import prompt, random_decoder, run

RECIPE = ModuleRecipe(steps=6, batch=2, warmup_steps=1, checkpoint_every=3, log_every=2)


def dialogues() -> Iterator[Dialogue]:
    """Random ids whose second half is the answer; the same stream at every call."""
    for seed in itertools.count():
        yield prompt(20, seed).tolist(), [False] * 10 + [True] * 10


def examples(decoder: Decoder) -> Iterator[Example]:
    return observed(kangaroo().trainer(), decoder, DraftHead(decoder), dialogues(), RECIPE.max_tokens)


def kangaroo(weights: Path | None = None) -> Kangaroo:
    where = None if weights is None else str(weights)
    return Kangaroo(weights=where, exit_layer=2, draft_length=3, threshold=0.0)


def test_what_training_writes_the_method_loads_and_decodes_with(tmp_path: Path) -> None:
    decoder = random_decoder()
    train_module(kangaroo().trainer(), decoder, examples(decoder), RECIPE, tmp_path, {"model": "random"})
    facts = json.loads((tmp_path / "module.json").read_text())
    assert facts["method"] == "kangaroo"
    assert facts["exit_layer"] == 2
    assert facts["recipe"]["steps"] == 6
    assert set(facts["figures"]) == {"loss", "accept", "top1"}
    method, baseline = kangaroo(tmp_path), Autoregressive()
    method.attach(decoder)
    baseline.attach(decoder)
    assert run(method, prompt()).ids == run(baseline, prompt()).ids


def test_an_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    decoder = random_decoder()
    whole = ModuleTraining(kangaroo().trainer(), decoder, RECIPE, tmp_path / "whole")
    whole.run(examples(decoder))

    class Interrupted(ModuleTraining):
        def _save(self) -> None:
            super()._save()
            raise KeyboardInterrupt

    first = Interrupted(kangaroo().trainer(), decoder, RECIPE, tmp_path / "halves")
    with pytest.raises(KeyboardInterrupt):
        first.run(examples(decoder))
    resumed = ModuleTraining(kangaroo().trainer(), decoder, RECIPE, tmp_path / "halves")
    resumed.run(examples(decoder))
    for name, value in whole.module.state_dict().items():
        torch.testing.assert_close(resumed.module.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_have_the_precision_of_the_model_and_trained_weights_stay_in_fp32(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    decoder = random_decoder(tier="static", dtype=dtype)
    training = ModuleTraining(kangaroo().trainer(), decoder, RECIPE, tmp_path)
    seen = set()
    training.module.get_submodule("layers.0.self_attn.q_proj").register_forward_hook(
        lambda module, inputs, output: seen.add(output.dtype)
    )
    training.run(examples(decoder))
    assert seen == {dtype}
    assert {parameter.dtype for parameter in training.module.parameters()} == {torch.float32}


def test_a_run_can_begin_with_the_weights_of_an_earlier_one(tmp_path: Path) -> None:
    decoder = random_decoder()
    train_module(kangaroo().trainer(), decoder, examples(decoder), RECIPE, tmp_path, {"model": "random"})
    second = ModuleTraining(kangaroo().trainer(), decoder, RECIPE, tmp_path / "next", [tmp_path])
    shipped = load_file(tmp_path / "module.safetensors")
    for name, value in second.module.state_dict().items():
        torch.testing.assert_close(value, shipped[name].float(), rtol=0, atol=0)


def test_a_run_can_begin_with_the_mean_of_several(tmp_path: Path) -> None:
    decoder, folders = random_decoder(), [tmp_path / "a", tmp_path / "b"]
    for folder, seed in zip(folders, (1, 2), strict=True):
        train_module(
            kangaroo().trainer(),
            decoder,
            examples(decoder),
            replace(RECIPE, seed=seed),
            folder,
            {"model": "random"},
        )
    first, second = (load_file(folder / "module.safetensors") for folder in folders)
    mean = ModuleTraining(
        kangaroo().trainer(), decoder, RECIPE, tmp_path / "next", folders
    ).module.state_dict()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    for name, value in mean.items():
        torch.testing.assert_close(value, (first[name].float() + second[name].float()) / 2)


def test_weights_of_another_module_are_refused_as_a_start(tmp_path: Path) -> None:
    save_module(tmp_path, {"heads.0.weight": torch.zeros(2, 2)}, {"method": "medusa"})
    with pytest.raises(UserError, match=r"layers\.0\.input_layernorm\.weight is missing"):
        ModuleTraining(kangaroo().trainer(), random_decoder(), RECIPE, tmp_path / "next", [tmp_path])


def test_a_work_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    decoder = random_decoder()
    ModuleTraining(kangaroo().trainer(), decoder, RECIPE, tmp_path).run(examples(decoder))
    other = ModuleRecipe(steps=9, batch=2)
    with pytest.raises(UserError, match="other settings"):
        ModuleTraining(kangaroo().trainer(), decoder, other, tmp_path).run(examples(decoder))


def test_only_methods_with_modules_are_trainable() -> None:
    assert isinstance(kangaroo(), Trainable)
    assert not isinstance(Autoregressive(), Trainable)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"steps": 0}, "recipe.steps must be at least 1"), ({"lr": 0.0}, "recipe.lr must be above 0")],
    ids=["no steps", "no rate"],
)
def test_recipes_are_checked(given: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModuleRecipe(**given)  # type: ignore[arg-type]
