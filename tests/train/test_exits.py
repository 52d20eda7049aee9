"""A model tuned for early exits: what changes, what it learns, and that it becomes a plain checkpoint."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from bench.convert import cli as convert
from bench.convert.merged import convert_merged
from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions, load_decoder
from bench.runtime.modules import save_module
from bench.runtime.sampling import DraftHead
from bench.train.exits import cli
from bench.train.exits.trainer import ExitSettings, ExitTrainer
from bench.train.trainers.checkpoint import trained_state
from bench.train.trainers.modules import ModuleTraining, observe
from bench.train.trainers.recipe import ModuleRecipe
from methods.core.autoregressive import Autoregressive
from methods.early_exit.layerskip import LayerSkip
from methods.training.rows import TrainingRows, packed
from tests.command import Done, mistake_lines, run_command
from tests.harness import save_random_model
from tests.methods.small import prompt, random_decoder, run

SETTINGS = ExitSettings(layers=3, exits=(2, 3), rank=8)
RECIPE = ModuleRecipe(steps=40, batch=1, lr=2e-2, warmup_steps=1, checkpoint_every=100)
OPTIONS = RuntimeOptions(torch.device("cpu"), torch.float32, 128)


def rows_of(decoder: Decoder, length: int = 20, seed: int = 3) -> TrainingRows:
    """A random dialogue whose tokens from the eighth on are the answer."""
    ids, head = prompt(length, seed).tolist(), DraftHead(decoder, torch.arange(0, 96, 2))
    is_answer = [False] * 8 + [True] * (length - 8)
    return observe(ExitTrainer(SETTINGS), decoder, ids, is_answer, head)


def test_an_untrained_copy_says_what_the_model_says() -> None:
    decoder, trainer = random_decoder(), ExitTrainer(SETTINGS)
    _, figures = trainer.loss(trainer.new_module(decoder), rows_of(decoder), decoder)
    assert figures["top1_last"] == 1.0
    assert figures.keys() == {"exit", "last", "top1", "accept", "top1_last"}


def test_the_first_layers_alone_change_and_the_exit_learns_what_the_model_says(tmp_path: Path) -> None:
    decoder = random_decoder()
    training = ModuleTraining(ExitTrainer(SETTINGS), decoder, RECIPE, tmp_path)
    before = {name: tensor.clone() for name, tensor in training.module.state_dict().items()}
    figures = [training.train_step([partial(rows_of, decoder)]) for _ in range(40)]
    assert figures[-1]["exit"] < 0.8 * figures[0]["exit"]
    assert figures[-1]["last"] < figures[0]["last"] + 0.5
    after = training.module.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved
    assert moved <= set(trained_state(training.module))
    assert {int(name.split(".")[2]) for name in moved} == {0, 1, 2}
    assert all(name.endswith((".lora_A", ".lora_B")) for name in moved)


@pytest.mark.parametrize("exit_", [2, 3])
def test_dialogues_of_a_batch_do_not_see_each_other(exit_: int) -> None:
    decoder = random_decoder()
    trainer = ExitTrainer(ExitSettings(layers=3, exits=(exit_,), rank=4, last_share=1.0))
    module = trainer.new_module(decoder)
    parts = [rows_of(decoder, length, seed) for length, seed in ((20, 1), (14, 2))]
    losses = [trainer.loss(module, part, decoder)[0] for part in parts]
    weights = [int(part.mask.sum()) for part in parts]
    expected = sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)
    torch.testing.assert_close(
        trainer.loss(module, packed(parts), decoder)[0], expected, atol=1e-4, rtol=1e-4
    )


def test_a_part_of_a_batch_runs_through_all_layers() -> None:
    decoder = random_decoder()
    whole, part = (ExitTrainer(ExitSettings(3, (3,), 4, last_share=share)) for share in (1.0, 0.1))
    module = whole.new_module(decoder)
    parts = [rows_of(decoder, length, seed) for length, seed in ((20, 1), (14, 2))]
    _, of_first = whole.loss(module, parts[0], decoder)
    _, got = part.loss(module, packed(parts), decoder)
    assert got["last"] == pytest.approx(of_first["last"], rel=1e-4)
    assert got["exit"] == pytest.approx(whole.loss(module, packed(parts), decoder)[1]["exit"], rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"layers": 3, "exits": [4]}, "exits.exits must lie in 1..3"),
        ({"layers": 3, "exits": []}, "exits.exits must lie in 1..3"),
        ({"layers": 3, "exits": [3], "rank": 0}, "exits.rank must be at least 1"),
        ({"layers": 3, "exits": [3], "exit_weight": 0.0}, "exits.exit_weight must be above 0"),
        ({"layers": 3, "exits": [3], "last_share": 1.5}, "exits.last_share must be above 0 and at most 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], error: str) -> None:
    with pytest.raises(UserError, match=error):
        ExitSettings(**settings)  # type: ignore[arg-type]


def test_a_model_without_layers_left_to_verify_is_refused() -> None:
    trainer = ExitTrainer(ExitSettings(layers=6, exits=(3,)))
    with pytest.raises(UserError, match="must be below the model's 6 layers, got 6"):
        trainer.new_module(random_decoder())


def tune(*overrides: str) -> Done:
    """The command, without the estimate of memory that `test_memory` is about."""
    small = ["recipe.steps=2", "recipe.batch=1", "recipe.max_tokens=64", "recipe.checkpoint_every=1"]
    exits = ["exits.layers=2", "exits.exits=[1,2]", "exits.rank=2"]
    with patch("bench.train.subject.require_memory_for"):
        return run_command(cli.main, *small, *exits, *overrides)


def test_one_command_tunes_a_model_and_another_makes_it_a_checkpoint(tmp_path: Path) -> None:
    base, changes, whole = save_random_model(tmp_path / "base"), tmp_path / "changes", tmp_path / "whole"
    model = ["model=local", f"model.path={base}"]
    trained = tune(*model, "data=embedded", f"out={changes}", f"hydra.run.dir={tmp_path}")
    assert trained.returncode == 0, trained.stderr
    facts = json.loads((changes / "module.json").read_text())
    assert (facts["method"], facts["layers"], facts["exits"], facts["rank"]) == ("early_exits", 2, [1, 2], 2)
    assert len(load_file(changes / "module.safetensors")) == 2 * 7 * 2  # layers, projections, two matrices
    merge = ["kind=merged", *model, f"out={whole}", f"hydra.run.dir={tmp_path}"]
    made = run_command(convert.main, *merge, f"source={changes}")
    assert made.returncode == 0, made.stderr
    assert json.loads((whole / "config.json").read_text())["early_exits"]["recipe"]["steps"] == 2
    plain, skipping = Autoregressive(), LayerSkip(exit_layer=2, draft_length=3)
    for method in (plain, skipping):
        method.attach(load_decoder(whole, OPTIONS))
    ids = prompt(9, vocabulary=300)
    assert run(skipping, ids, new=24).ids == run(plain, ids, new=24).ids
    nothing = run_command(convert.main, *merge, f"source={base}")
    assert nothing.returncode == 2
    assert "holds no module.safetensors" in mistake_lines(nothing.stderr)[0]


def test_the_merged_model_computes_what_the_tuned_one_does(tmp_path: Path) -> None:
    base = save_random_model(tmp_path / "base")
    decoder = load_decoder(base, OPTIONS)
    trainer = ExitTrainer(ExitSettings(layers=2, exits=(2,), rank=4))
    torch.manual_seed(0)
    module = trainer.new_module(decoder)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight.copy_(0.3 * torch.randn_like(weight))
    save_module(tmp_path / "changes", trained_state(module), trainer.provenance(decoder))
    convert_merged(tmp_path / "changes", base, tmp_path / "whole")
    rows = load_decoder(tmp_path / "whole", OPTIONS)
    tuned = module.get_submodule("model.layers.1.mlp.down_proj")
    x = torch.randn(4, 64)
    down = rows.layers[1].mlp.down  # type: ignore[union-attr]
    torch.testing.assert_close(down(x), tuned(x), atol=5e-2, rtol=5e-2)  # stored in bf16
