"""A model tuned for early exits: what changes, what it learns, and that it becomes a plain checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from bench.convert import cli as convert
from bench.convert.merged import convert_merged
from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions, load_decoder
from bench.runtime.modules import save_model
from bench.runtime.sampling import DraftHead
from bench.train.exits import cli
from bench.train.exits.trainer import ExitSettings, ExitTrainer, Reading
from bench.train.trainers.checkpoint import trained_state
from bench.train.trainers.joint import JointTraining
from bench.train.trainers.recipe import JointRecipe
from methods.core.autoregressive import Autoregressive
from methods.early_exit.layerskip import LayerSkip
from methods.training.trained_model import TrainedModel
from tests.command import mistake_lines, run_command
from tests.harness import save_random_model
from tests.methods.small import prompt, random_decoder, run

SETTINGS = ExitSettings(layers=3, exits=(2, 3), rank=8)
RECIPE = JointRecipe(steps=40, batch=2, lr=2e-2, warmup_steps=1, checkpoint_every=100, micro_tokens=64)
IS_ANSWER = [False] * 8 + [True] * 12


def trainer_of(decoder: Decoder, settings: ExitSettings = SETTINGS) -> ExitTrainer:
    return ExitTrainer(settings, DraftHead(decoder, torch.arange(0, 96, 2)))


def test_an_untrained_copy_says_what_the_model_says() -> None:
    decoder = random_decoder()
    trainer = trainer_of(decoder)
    model = trainer.new_model(decoder)
    examples = trainer.examples(model, prompt(20).tolist(), IS_ANSWER, decoder, Random(0))
    (reading,) = examples
    assert isinstance(reading, Reading)
    assert (reading.tokens, len(reading), reading.rows.tolist()) == (12, 20, list(range(7, 19)))
    _, figures = trainer.joint_loss(model, examples, decoder)
    assert float(figures["top1_last"]) == 1.0
    assert f"top1_{reading.exit}" in figures


def test_the_first_layers_alone_change_and_the_exit_learns_what_the_model_says(tmp_path: Path) -> None:
    decoder = random_decoder()
    training = JointTraining(trainer_of(decoder), decoder, RECIPE, tmp_path)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    figures = [training.train_step([(prompt(20).tolist(), IS_ANSWER)]) for _ in range(40)]
    assert figures[-1]["exit"] < 0.8 * figures[0]["exit"]
    assert figures[-1]["last"] < figures[0]["last"] + 0.5
    moved = {
        name for name, tensor in training.model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert moved
    assert all(name.endswith((".lora_A", ".lora_B")) for name in moved)
    assert {int(name.split(".")[2]) for name in moved} == {0, 1, 2}


def test_a_batch_reads_each_dialogue_as_if_it_were_alone() -> None:
    decoder = random_decoder()
    trainer = trainer_of(decoder, ExitSettings(layers=3, exits=(3,), rank=4))
    model = trainer.new_model(decoder)
    readings = [
        example
        for seed, length in ((1, 20), (2, 14))
        for example in trainer.examples(
            model, prompt(length, seed).tolist(), IS_ANSWER[:length], decoder, Random(0)
        )
    ]
    losses = [trainer.joint_loss(model, [reading], decoder)[0] for reading in readings]
    together = trainer.joint_loss(model, readings, decoder)[0]
    weights = [reading.tokens for reading in readings]
    expected = sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)
    torch.testing.assert_close(together, expected, atol=1e-4, rtol=1e-4)


def test_a_dialogue_without_an_answer_teaches_nothing() -> None:
    decoder = random_decoder()
    trainer = trainer_of(decoder)
    model = trainer.new_model(decoder)
    assert trainer.examples(model, [1, 2, 3], [False] * 3, decoder, Random(0)) == []


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"layers": 3, "exits": [4]}, "exits.exits must lie in 1..3"),
        ({"layers": 3, "exits": []}, "exits.exits must lie in 1..3"),
        ({"layers": 3, "exits": [3], "rank": 0}, "exits.rank must be at least 1"),
        ({"layers": 3, "exits": [3], "exit_weight": 1.0}, "exits.exit_weight must lie between"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], error: str) -> None:
    with pytest.raises(UserError, match=error):
        ExitSettings(**settings)  # type: ignore[arg-type]


def test_a_model_without_layers_left_to_verify_is_refused() -> None:
    decoder = random_decoder()
    with pytest.raises(UserError, match="must be below the model's 6 layers, got 6"):
        trainer_of(decoder, ExitSettings(layers=6, exits=(3,))).new_model(decoder)


def test_one_command_tunes_a_model_and_another_makes_it_a_checkpoint(tmp_path: Path) -> None:
    base, changes, whole = save_random_model(tmp_path / "base"), tmp_path / "changes", tmp_path / "whole"
    small = ["recipe.steps=2", "recipe.batch=1", "recipe.max_tokens=64", "recipe.checkpoint_every=1"]
    model = ["model=local", f"model.path={base}", "data=embedded"]
    exits = ["exits.layers=2", "exits.exits=[1,2]", "exits.rank=2"]
    trained = run_command(cli.main, *model, *exits, *small, f"out={changes}")
    assert trained.returncode == 0, trained.stderr
    block = json.loads((changes / "config.json").read_text())["early_exits"]
    assert (block["layers"], block["exits"], block["rank"]) == (2, [1, 2], 2)
    assert block["training"]["recipe"]["steps"] == 2
    names = set(load_file(changes / "model.safetensors"))
    assert len(names) == 2 * 7 * 2  # two layers, seven projections, two matrices
    made = run_command(
        convert.main, "kind=merged", "model=local", f"model.path={base}", f"source={changes}", f"out={whole}"
    )
    assert made.returncode == 0, made.stderr
    options = RuntimeOptions(torch.device("cpu"), torch.float32, 128)
    plain, skipping = Autoregressive(), LayerSkip(exit_layer=2, draft_length=3)
    for method in (plain, skipping):
        method.attach(load_decoder(whole, options))
    ids = prompt(9, vocabulary=300)
    assert run(skipping, ids, new=24).ids == run(plain, ids, new=24).ids
    again = run_command(
        convert.main, "kind=merged", "model=local", f"model.path={base}", f"source={base}", f"out={whole}"
    )
    assert again.returncode == 2
    assert "holds no low-rank changes" in mistake_lines(again.stderr)[0]


def test_the_merged_model_computes_what_the_tuned_one_does(tmp_path: Path) -> None:
    base = save_random_model(tmp_path / "base")
    options = RuntimeOptions(torch.device("cpu"), torch.float32, 128)
    decoder = load_decoder(base, options)
    training = JointTraining(
        ExitTrainer(ExitSettings(layers=2, exits=(2,), rank=4), DraftHead(decoder)), decoder, RECIPE, tmp_path
    )
    for seed in range(3):
        training.train_step([(prompt(20, seed, vocabulary=300).tolist(), IS_ANSWER)])
    config = json.loads((base / "config.json").read_text())
    save_model(tmp_path / "changes", trained_state(training.model), config)
    convert_merged(tmp_path / "changes", base, tmp_path / "whole")
    whole = load_decoder(tmp_path / "whole", options)
    model = training.model
    assert isinstance(model, TrainedModel)
    trained = dict(model.named_modules())["model.layers.1.mlp.down_proj"]
    x = torch.randn(4, trained.weight.shape[1])
    down = whole.layers[1].mlp.down  # type: ignore[union-attr]
    torch.testing.assert_close(down(x), trained(x), atol=5e-2, rtol=5e-2)  # stored in bf16
