"""The base model's training: LayerSkip's schedules, the functional pass, batches, and exact resume."""

from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import LlamaForCausalLM

from bench.errors import UserError
from bench.train.base import layerskip
from bench.train.base.build import BaseRecipe, default_recipe, train_base
from bench.train.base.data import MicroBatches, collate, cut_by_length
from bench.train.base.evaluation import evaluate_exits
from bench.train.base.loop import Trainer
from bench.train.base.model import BaseShape, Network, build_model
from bench.train.base.optim import orthogonalize
from bench.train.corpus import training_dialogues
from bench.train.data.tokenizer import train_tokenizer
from bench.train.trainers.checkpoint import load_state, save_state
from tests.forks import FORKS

SHAPE = BaseShape(layers=4, hidden=32, heads=2, feed_forward=48, vocab=300, max_positions=512)
RECIPE = BaseRecipe(
    shape=SHAPE,
    steps=4,
    workers=1,
    micro_tokens=600,
    micros_per_step=1,
    is_compiled=False,
    tokenizer_dialogues=20,
    heldout_each=1,
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder that holds a tokenizer only."""
    folder = tmp_path_factory.mktemp("run")
    stream = training_dialogues(0)
    texts = [text for _ in range(20) for text in next(stream).answers]
    train_tokenizer(texts, SHAPE.vocab).save_pretrained(folder / "tokenizer")
    return folder


def fresh_trainer(run_folder: Path, out: Path, recipe: BaseRecipe = RECIPE) -> Trainer:
    """A trainer of its own folder, with the shared tokenizer."""
    out.mkdir(exist_ok=True)
    if not (out / "tokenizer").exists():
        (out / "tokenizer").symlink_to(run_folder / "tokenizer")
    return Trainer(recipe, out, 0, CPU)


def run_until(trainer: Trainer, step: int | None) -> dict[str, torch.Tensor]:
    """The weights after running until `step` steps are done (None: to the end)."""
    trainer.run(lambda: trainer.step == step)
    return {name: weight.detach().clone() for name, weight in trainer.model.state_dict().items()}


def test_layer_dropout_grows_with_depth_and_time() -> None:
    rates = layerskip.dropout_rates(5, step=99, steps=100, p_max=0.2)
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.2)
    assert rates.diff().min() > 0
    assert layerskip.dropout_rates(5, step=0, steps=100, p_max=0.2).abs().max() == 0


def test_layer_dropout_skips_at_its_rate() -> None:
    rates = torch.tensor([0.0, 0.5, 1.0])
    keep = layerskip.draw_keep(rates, 4000, torch.Generator().manual_seed(0))
    assert keep.shape == (3, 4000, 1, 1)
    assert keep.mean((1, 2, 3)).tolist() == pytest.approx([1.0, 0.5, 0.0], abs=0.03)


def test_exit_rotation_favours_drafting_exits_and_reaches_every_layer() -> None:
    exits = [layerskip.exit_of_step(step, 16) for step in range(48)]
    assert exits[:8] == [2, 4, 1, 3, 2, 4, 1, 5]
    assert set(exits) == set(range(1, 16))


@pytest.mark.parametrize(
    ("exit_", "floor", "weight"),
    [(1, 0.0, 0.0), (4, 0.0, 6 / 120), (15, 0.0, 105 / 120), (4, 0.25, 0.25)],
    ids=["paper gives the first exit nothing", "paper, exit 4", "paper, last but one", "our floor"],
)
def test_exit_weight_is_the_papers_above_the_floor(exit_: int, floor: float, weight: float) -> None:
    assert layerskip.exit_weight(exit_, 16, e_scale=1.0, floor=floor) == pytest.approx(weight)


def test_functional_pass_is_the_hugging_face_model() -> None:
    model = build_model(SHAPE, seed=3, bos=0, end=3)
    ids = torch.randint(0, SHAPE.vocab, (2, 9), generator=torch.Generator().manual_seed(0))
    network = Network(model, SHAPE, torch.float32)
    states = network.hidden_states(ids, torch.ones(SHAPE.layers, 2, 1, 1))
    expected = model(ids, output_hidden_states=True)
    for got, want in zip(states[:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(got, want)
    norm, head = network.head()
    loss = network.loss(states[-1].flatten(0, 1), norm, head, ids.flatten(), torch.ones(18))
    want_loss = torch.nn.functional.cross_entropy(
        expected.logits.flatten(0, 1), ids.flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss, want_loss)


def test_dropped_layer_leaves_its_sample_alone() -> None:
    model = build_model(SHAPE, seed=3, bos=0, end=3)
    keep = torch.ones(SHAPE.layers, 2, 1, 1)
    keep[1, 0] = 0
    states = Network(model, SHAPE, torch.float32).hidden_states(torch.ones(2, 5, dtype=torch.long), keep)
    assert torch.equal(states[2][0], states[1][0])
    assert not torch.equal(states[2][1], states[1][1])


@pytest.mark.parametrize("columns", [24, 60], ids=["square", "wide"])
def test_orthogonalize_flattens_singular_values(columns: int) -> None:
    stack = torch.randn(3, 24, columns, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(stack).float())
    assert values.max() < 1.3
    assert values.median() > 0.65


def test_groups_waste_little_padding_and_lose_nothing() -> None:
    rng = Random(0)
    dialogues = [([1] * rng.randint(20, 90), [True]) for _ in range(300)]
    groups = cut_by_length(dialogues, 600)
    assert sum(map(len, groups)) == 300
    padded = sum(len(group) * len(group[0][0]) for group in groups)
    assert all(len(group) * max(len(ids) for ids, _ in group) <= 600 for group in groups)
    assert padded <= 1.05 * sum(len(ids) for ids, _ in dialogues)


def test_collate_pads_right_and_masks_padding() -> None:
    batch = collate([([5, 6, 7], [False, True, True]), ([8], [False])], pad=3)
    assert batch.ids.tolist() == [[5, 6, 7, 3, 3, 3, 3, 3], [8, 3, 3, 3, 3, 3, 3, 3]]
    assert batch.is_answer.sum(1).tolist() == [2, 0]
    assert batch.is_token.sum(1).tolist() == [3, 1]


def test_micro_batch_depends_on_its_index_only(run_folder: Path) -> None:
    trainer = fresh_trainer(run_folder, run_folder)
    batches = [MicroBatches(trainer.tokenizer, 600, seed=1, rank=rank) for rank in (0, 0, 1)]
    first = batches[0][0]
    later = batches[0][97]  # from the second pool
    assert torch.equal(batches[1][97].ids, later.ids)
    assert torch.equal(batches[0][0].ids, first.ids)
    assert not torch.equal(batches[2][0].ids, first.ids)


def test_resumed_run_equals_uninterrupted_run(run_folder: Path, tmp_path: Path) -> None:
    straight = run_until(fresh_trainer(run_folder, tmp_path / "straight"), None)
    run_until(fresh_trainer(run_folder, tmp_path / "broken"), 2)
    assert not (tmp_path / "broken" / "final").exists()
    resumed = fresh_trainer(run_folder, tmp_path / "broken")
    assert resumed.step == 2
    for name, weight in run_until(resumed, None).items():
        assert torch.equal(weight, straight[name]), name


def test_training_learns_and_exports_a_hugging_face_model(run_folder: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=16, warmup_steps=2)
    trainer = fresh_trainer(run_folder, tmp_path, recipe)
    before = evaluate_exits(trainer.network, trainer.tokenizer, 1)
    trainer.run(lambda: False)
    after = evaluate_exits(trainer.network, trainer.tokenizer, 1)
    assert after["loss"] < before["loss"] - 1
    assert after["loss_2"] < before["loss_2"] - 1
    model = LlamaForCausalLM.from_pretrained(tmp_path / "final")
    assert model.generation_config.eos_token_id == trainer.tokenizer.eos_token_id
    assert torch.equal(model.lm_head.weight, trainer.model.model.embed_tokens.weight)


def test_two_workers_share_a_run_and_stop_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda kind: FORKS)
    recipe = replace(RECIPE, steps=3, workers=2)
    assert train_base(recipe, tmp_path, stop_after=2) is None
    state = load_state(tmp_path, asdict(recipe))
    assert state is not None
    assert state["step"] == 2
    assert state["tokens"] > 2 * RECIPE.micro_tokens  # both workers' dialogues


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    assert train_base(RECIPE, tmp_path) == tmp_path / "final"
    assert not (tmp_path / "tokenizer").exists()


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    save_state(tmp_path, {"step": 1, "settings": asdict(RECIPE)})
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(UserError, match=r"other settings \(steps=4 then, 5 now\)"):
        train_base(replace(RECIPE, steps=5), tmp_path)


def test_learning_rate_warms_up_holds_and_ends_near_zero() -> None:
    recipe = replace(RECIPE, steps=1000, warmup_steps=10, decay_share=0.5)
    factors = [recipe.lr_factor(step) for step in (0, 9, 499, 750, 999)]
    assert factors == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.002])


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(UserError, match="steps must be at least 1, got 0"):
        BaseRecipe(steps=0)
    with pytest.raises(UserError, match="micro_tokens must be at least 1, got -5"):
        BaseRecipe(micro_tokens=-5)


def test_gpu_runs_one_worker(tmp_path: Path) -> None:
    assert default_recipe("cuda").workers == 1
    with pytest.raises(UserError, match="workers must be 1 on cuda, got 2"):
        train_base(BaseRecipe(workers=2), tmp_path, device="cuda")
