"""The generic trainer: what it writes, how it resumes, what it refuses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.modules import save_module
from bench.runtime.sampling import DraftHead
from bench.train.trainers.checkpoint import STATE_FILE, load_state, save_state
from bench.train.trainers.course import read_course
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


def trained(folder: Path, decoder: Decoder) -> dict[str, torch.Tensor]:
    training = ModuleTraining(kangaroo().trainer(), decoder, RECIPE, folder)
    training.run(examples(decoder))
    return {name: value.clone() for name, value in training.module.state_dict().items()}


def test_a_damaged_state_is_told_in_two_lines_and_never_used(tmp_path: Path) -> None:
    """Every damage is found, or is in bytes that mean nothing."""
    rng, weights, settings = Random(0), torch.randn(300), {"steps": 4}
    save_state(tmp_path, {"step": 3, "settings": settings, "module": {"weight": weights}})
    path = tmp_path / STATE_FILE
    whole, refused = path.read_bytes(), 0
    damages = [b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:-9], bytes(len(whole))]
    for place in rng.sample(range(len(whole)), 300):
        damages.append(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
    for damage in damages:
        path.write_bytes(damage)
        try:
            state = load_state(tmp_path, settings)
        except UserError:
            refused += 1
        else:
            assert state is not None
            assert (state["step"], state["settings"]) == (3, settings)
            assert torch.equal(state["module"]["weight"], weights)
    assert refused > 100


@pytest.mark.parametrize(
    "content",
    [3, [1], {"step": 1}, {"settings": 4}, {"settings": None}, "own settings, no weights", "own settings"],
    ids=str,
)
def test_the_state_of_another_program_is_refused(content: object, tmp_path: Path) -> None:
    decoder = random_decoder()
    if isinstance(content, str):
        trained(tmp_path, decoder)
        own = torch.load(tmp_path / "work" / "state.pt")
        content = {"settings": own["settings"], "step": 3}
        content |= {"module": {}, "optimizer": own["optimizer"]} if "weights" not in str(content) else {}
    (tmp_path / "work").mkdir(exist_ok=True)
    torch.save(content, tmp_path / "work" / "state.pt")
    with pytest.raises(UserError, match=r"damaged|other settings"):
        trained(tmp_path, decoder)


def test_two_trainings_never_share_a_folder(tmp_path: Path) -> None:
    decoder, messages = random_decoder(), list[str]()

    class Watched(ModuleTraining):
        def train_step(self, examples: Sequence[Example]) -> dict[str, float]:
            if not messages:
                messages.append("")
                with pytest.raises(UserError, match="is being written by") as caught:
                    trained(tmp_path, decoder)
                messages.append(caught.value.what)
            return super().train_step(examples)

    Watched(kangaroo().trainer(), decoder, RECIPE, tmp_path).run(examples(decoder))
    assert len(messages) == 2
    assert [line["step"] for line in read_course(tmp_path)] == [2, 4, 6]
    trained(tmp_path, decoder)  # the folder is free again


def test_only_methods_with_modules_are_trainable() -> None:
    assert isinstance(kangaroo(), Trainable)
    assert not isinstance(Autoregressive(), Trainable)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "recipe.steps must be at least 1"),
        ({"lr": 0.0}, "recipe.lr must be finite and above 0"),
    ],
    ids=["no steps", "no rate"],
)
def test_recipes_are_checked(given: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModuleRecipe(**given)  # type: ignore[arg-type]
