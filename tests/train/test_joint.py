"""Training of a whole model: it learns, resumes exactly, keeps its rates apart, and writes what attaches."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.errors import UserError
from bench.runtime.modules import save_model
from bench.train.data.batching import group_by_length
from bench.train.trainers.checkpoint import save_state
from bench.train.trainers.joint import JointTraining, train_joint
from bench.train.trainers.loop import Dialogue
from bench.train.trainers.recipe import JointRecipe
from methods.hamburger.draft import Hamburger
from tests.methods.hamburger.hamburgers import answer, unattached
from tests.methods.small import FAMILIES, prompt, random_decoder, run

RECIPE = JointRecipe(steps=6, batch=2, warmup_steps=1, checkpoint_every=3, log_every=2, micro_tokens=32)


def dialogues() -> Iterator[Dialogue]:
    """Random ids whose second half is the answer; the same stream at every call."""
    for seed in itertools.count():
        yield prompt(20, seed).tolist(), [False] * 10 + [True] * 10


def hamburger(**changes: object) -> Hamburger:
    return unattached(**{"floor": 1.0, "ratio": 0.9, "singles": 0.2, "random_splits": 0.2, **changes})


wholly_or_by_low_rank = pytest.mark.parametrize("rank", [None, 8], ids=["whole", "low rank"])


@wholly_or_by_low_rank
def test_it_learns_one_dialogue_by_heart(rank: int | None, tmp_path: Path) -> None:
    decoder = random_decoder()
    share = RECIPE.base_share if rank is None else 1.0
    recipe = replace(RECIPE, steps=30, lr=1e-2, base_share=share, checkpoint_every=100)
    trainer = JointTraining(hamburger(rank=rank).model_trainer(), decoder, recipe, tmp_path)
    batch = [next(dialogues())]
    figures = [trainer.train_step(batch) for _ in range(30)]
    assert figures[0]["ce"] > 3
    assert figures[-1]["ce"] < 1
    assert figures[-1]["top1"] > 0.8


@wholly_or_by_low_rank
def test_an_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(
    rank: int | None, tmp_path: Path
) -> None:
    decoder, method = random_decoder(), hamburger(rank=rank)
    whole = JointTraining(method.model_trainer(), decoder, RECIPE, tmp_path / "whole")
    whole.run(dialogues())

    class Interrupted(JointTraining):
        def _save(self) -> None:
            super()._save()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Interrupted(method.model_trainer(), decoder, RECIPE, tmp_path / "halves").run(dialogues())
    resumed = JointTraining(method.model_trainer(), decoder, RECIPE, tmp_path / "halves")
    resumed.run(dialogues())
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0, atol=0)


@wholly_or_by_low_rank
def test_what_training_writes_the_method_loads_and_decodes_with(rank: int | None, tmp_path: Path) -> None:
    decoder, base, out = random_decoder(), tmp_path / "base", tmp_path / "out"
    base.mkdir()
    config = FAMILIES["llama"].to_dict() | {"architectures": ["LlamaForCausalLM"]}
    (base / "config.json").write_text(json.dumps(config))
    trainer = hamburger(rank=rank, micro_mlp_width=24).model_trainer()
    train_joint(trainer, decoder, base, dialogues(), RECIPE, out, {"model": "random"})
    block = json.loads((out / "config.json").read_text())["hamburger"]
    assert block["feature_layers"] == [1, 2, 3, 5]
    assert block["training"]["model"] == "random"
    assert block["training"]["recipe"]["steps"] == 6
    method = hamburger(weights=str(out))
    method.attach(decoder)
    assert len(run(method, prompt(), new=20).ids) == 20


def test_an_untrained_copy_is_the_model(tmp_path: Path) -> None:
    """Plain decoding of the model that training starts from: the base's own ids."""
    decoder, base = random_decoder(), tmp_path / "base"
    trainer = JointTraining(hamburger().model_trainer(), decoder, RECIPE, tmp_path / "work")
    names = dict(trainer.model.named_parameters())
    assert torch.equal(names["model.model.embed_tokens.weight"], decoder.embedding)
    assert torch.equal(names["model.model.layers.3.mlp.down_proj.weight"], decoder.layers[3].mlp.down.weight)
    assert not base.exists()


def test_a_run_can_begin_with_the_weights_of_an_earlier_one(tmp_path: Path) -> None:
    decoder = random_decoder()
    first = JointTraining(hamburger().model_trainer(), decoder, RECIPE, tmp_path / "work")
    first.train_step([next(dialogues())])
    save_model(tmp_path, first.model.state_dict(), {})
    second = JointTraining(hamburger().model_trainer(), decoder, RECIPE, tmp_path / "next", [tmp_path])
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(UserError, match=r"holds no model\.safetensors to start from"):
        JointTraining(hamburger().model_trainer(), decoder, RECIPE, tmp_path / "next", [tmp_path / "nowhere"])


def test_new_parts_learn_at_their_own_rate(tmp_path: Path) -> None:
    trainer = JointTraining(hamburger().model_trainer(), random_decoder(), RECIPE, tmp_path)
    trainer.train_step([next(dialogues())])
    base, new = trainer._optimizer.param_groups
    assert base["lr"] == pytest.approx(new["lr"] * RECIPE.base_share)
    count = sum(1 for name, _ in trainer.model.named_parameters() if not name.startswith("model."))
    assert len(new["params"]) == count


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    recipe = replace(RECIPE, steps=100, warmup_steps=10, final_share=0.1)
    factors = [recipe.lr_factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) > 0.97
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[50] == pytest.approx(0.55)
    assert factors[-1] == pytest.approx(0.1, abs=0.01)


def test_batches_hold_alike_lengths_and_at_least_one_example() -> None:
    examples = [answer(list(range(length)), length - 1, [1]) for length in (5, 40, 6, 5)]
    assert [[len(example) for example in part] for part in group_by_length(examples, 18, len)] == [
        [39],
        [5, 4, 4],
    ]


def test_recipes_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="base_share"):
        JointRecipe(base_share=2.0)
    with pytest.raises(UserError, match="steps"):
        JointRecipe(steps=0)


def test_families_whose_checkpoints_store_other_weights_are_refused() -> None:
    with pytest.raises(UserError, match="GemmaForCausalLM"):
        hamburger().model_trainer().new_model(random_decoder("gemma"))


def test_a_run_is_resumed_with_its_own_data_and_start_only(tmp_path: Path) -> None:
    decoder = random_decoder()
    recipe = replace(RECIPE, checkpoint_every=1, steps=1)
    JointTraining(hamburger().model_trainer(), decoder, recipe, tmp_path, facts={"data": "corpus"}).run(
        dialogues()
    )
    for facts in ({"data": "news"}, {"data": "corpus", "start": "earlier"}):
        with pytest.raises(UserError, match=r"other settings \((data=corpus|start=None) then, "):
            JointTraining(hamburger().model_trainer(), decoder, recipe, tmp_path, facts=facts).run(
                dialogues()
            )


def test_a_checkpoint_without_settings_is_refused_like_one_with_others(tmp_path: Path) -> None:
    save_state(tmp_path / "work", {"step": 1, "recipe": {}})  # as an older version wrote them
    with pytest.raises(UserError, match="other settings"):
        JointTraining(hamburger().model_trainer(), random_decoder(), RECIPE, tmp_path).run(dialogues())
