"""HAMburger: merging, positions, cache entries, decoding against the training pass, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.errors import UserError
from bench.records.model import Generation
from bench.runtime.rows import Rows
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive
from methods.core.base import Exactness, FullTrainable
from methods.hamburger.decoder import Merge
from methods.hamburger.draft import Hamburger
from methods.hamburger.groups import Answer, collate
from methods.hamburger.module import HamburgerModel, joint_loss
from methods.hamburger.shape import HamburgerShape
from methods.hamburger.trainer import distilled_labels
from tests.methods.hamburger.hamburgers import (
    TUNED_SEED,
    answer,
    bound,
    checkpoint,
    random_model,
    saved,
    shape_for,
    unattached,
)
from tests.methods.small import CPU, prompt, random_decoder, run

GREEDY = Sampler(Sampling(), CPU, 0)


@pytest.fixture(scope="module")
def model() -> HamburgerModel:
    return random_model(random_decoder(seed=TUNED_SEED))


def merge_of(model: HamburgerModel) -> Merge:
    return Merge(
        {name: value.detach() for name, value in model.comp_embedder.state_dict().items()}, model.shape
    )


def sizes_of(got: Generation) -> list[int]:
    """Tokens of every group: the root of a group is emitted by the round before."""
    full = [step for step in got.rounds if step.emitted == step.accepted + 1]
    cut = [step for step in got.rounds if step.emitted <= step.accepted]
    return [step.emitted for step in full] + [1 + sum(step.emitted for step in cut)]


# -- merging -----------------------------------------------------------------------------------------------


def test_a_group_of_one_passes_unchanged(model: HamburgerModel) -> None:
    token = torch.randn(1, 32)
    assert torch.equal(merge_of(model)(token), token)


def test_order_matters_within_a_group(model: HamburgerModel) -> None:
    tokens = torch.randn(3, 32)
    merge = merge_of(model)
    assert (merge(tokens) - merge(tokens.flip(0))).abs().max() > 1e-2


def test_an_untrained_merge_is_the_mean() -> None:
    decoder = random_decoder()
    merge = merge_of(HamburgerModel.from_decoder(decoder, shape_for(decoder)))
    tokens = torch.randn(4, 32)
    assert torch.allclose(merge(tokens), tokens.mean(dim=0, keepdim=True), atol=1e-6)


def test_padded_batches_merge_as_single_groups_do(model: HamburgerModel) -> None:
    merge, sizes = merge_of(model), torch.tensor([2, 4, 3])
    tokens = torch.randn(3, 4, 32)
    batched = model.comp_embedder(tokens, sizes)
    single = torch.cat([merge(tokens[i, :size]) for i, size in enumerate(sizes.tolist())])
    assert torch.allclose(batched, single, atol=1e-5)


# -- decoding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [1, 2, 7, 40])
def test_above_confidence_one_it_is_plain_decoding_of_the_tuned_model(new: int) -> None:
    tuned, plain = random_decoder(seed=TUNED_SEED), Autoregressive()
    method = bound(tuned, confidence=1.1)
    got = run(method, prompt(), new=new)
    plain.attach(tuned)
    assert got.ids == run(plain, prompt(), new=new).ids
    assert got.counts["kv_entries"] == new - 1


def test_random_weights_make_groups_of_every_size() -> None:
    got = run(bound(), prompt(), new=60)
    assert set(sizes_of(got)) == {1, 2, 3, 4}


def test_at_confidence_zero_every_group_is_full() -> None:
    got = run(bound(confidence=0.0), prompt(), new=40)
    assert sizes_of(got) == [4] * 10


def test_a_group_ends_before_a_token_that_the_micro_decoder_is_unsure_of() -> None:
    """Without the stop head the token confidence alone sets the sizes; at 1 it is plain decoding."""
    plain, full = run(bound(confidence=1.1), prompt(), new=40), run(bound(confidence=0.0), prompt(), new=40)
    for gate, expected in ((1.0, plain), (0.0, full)):
        assert run(bound(confidence=0.0, token_confidence=gate), prompt(), new=40).ids == expected.ids
    gated = run(bound(confidence=0.0, token_confidence=0.5), prompt(), new=60)
    assert len(set(sizes_of(gated))) > 1
    assert {step.stop for step in gated.rounds} >= {"probability", "length"}


def test_a_budget_that_ends_inside_a_group_gives_a_prefix() -> None:
    method = bound()
    whole = run(method, prompt(), new=40).ids
    for new in range(1, 12):
        assert run(method, prompt(), new=new).ids == whole[:new]


def test_output_ends_after_the_first_end_token() -> None:
    method = bound()
    whole = run(method, prompt(), new=40).ids
    for token in set(whole[:12]):
        assert run(method, prompt(), eos=frozenset({token})).ids == whole[: whole.index(token) + 1]


def test_the_cache_holds_one_entry_a_pass() -> None:
    tuned = random_decoder(seed=TUNED_SEED)
    got = run(bound(tuned), prompt(9), new=40)
    passes = len(sizes_of(got))  # the prefill is one
    assert tuned.cache.length == 9 + passes - 1
    assert got.counts["kv_entries"] == passes - 1
    assert sum(sizes_of(got)) == 40


@pytest.mark.parametrize(("convention", "shift"), [("last_token", 0), ("hf_compat", 1)])
def test_an_entry_stands_at_the_position_of_its_last_token(
    convention: str, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = random_decoder(seed=TUNED_SEED)
    seen: list[tuple[int, int]] = []
    single = tuned.placement.single

    def noted(slot: int, position: int) -> Rows:
        seen.append((slot, position))
        return single(slot, position)

    monkeypatch.setattr(tuned.placement, "single", noted)
    sizes = sizes_of(run(bound(tuned, position_convention=convention), prompt(9), new=40))
    ends = torch.tensor(sizes[:-1]).cumsum(0)
    assert [slot for slot, _ in seen] == list(range(9, 9 + len(seen)))
    assert [position for _, position in seen] == (9 - 1 + ends + shift).tolist()


def test_decoding_is_the_trained_forward() -> None:
    """Tokens, rows and stop decisions of a generation, recomputed by the training pass on its groups."""
    tuned = random_decoder(seed=TUNED_SEED)
    model = random_model(tuned)
    method = unattached()
    method.use(checkpoint(tuned, model))
    got = run(method, prompt(), new=60)
    sizes = sizes_of(got)
    groups = collate([answer([*prompt().tolist(), *got.ids], 12, sizes)], 4, CPU)
    with torch.no_grad():
        rows = model(groups, tuned.placement.rotation(0, tuned.capacity))
        logits = rows @ model.lm_head.T
        goes_on = torch.sigmoid(-model.micro_step_decoder.stop_head(rows).squeeze(-1)) >= 0.5
    replayed = [int(logits[g, i].argmax()) for g, size in enumerate(sizes) for i in range(size)]
    assert replayed == list(got.ids)
    for g, size in enumerate(sizes[:-1]):  # the last group may have met the budget
        assert goes_on[g, : size - 1].all()
        assert size == 4 or not goes_on[g, size - 1]


def test_states_equal_those_of_the_trained_forward_to_rounding() -> None:
    tuned = random_decoder(seed=TUNED_SEED)
    model = random_model(tuned)
    ids, sizes = torch.randint(96, (6 + 8,), generator=torch.Generator().manual_seed(1)), [2, 1, 4, 1]
    groups = collate([answer(ids.tolist(), 6, sizes), answer(ids.tolist()[:9], 6, [3])], 4, CPU)
    with torch.no_grad():
        rows = model(groups, tuned.placement.rotation(0, tuned.capacity))
        stepped = _stepwise(checkpoint(tuned, model), ids, 6, sizes)
    atol = 1e-5 * float(rows.abs().max())  # without a final norm, states can be of any size
    for g, states in enumerate(stepped):
        assert torch.allclose(rows[g, : len(states)], torch.stack(states), atol=atol)
    assert torch.allclose(rows[4, :1], rows[0, :1], atol=atol)  # the second answer shares the prompt


def _stepwise(parts: object, ids: torch.Tensor, start: int, sizes: list[int]) -> list[list[torch.Tensor]]:
    """The states that predict each token of each group, one pass at a time."""
    method = unattached(confidence=0.0)
    method.use(parts)  # type: ignore[arg-type]
    states: list[list[torch.Tensor]] = []
    _, features = method._prefill(ids[:start], GREEDY)
    for size in sizes:
        group, micro = ids[start : start + size], method._micro
        states.append([features[-1]])
        micro._layers.cache.truncate(0)
        inputs = torch.cat([features, method._tuned.embed(group[:1])])
        for token in group[1:]:
            states[-1].append(micro._advance(inputs)[0])
            inputs = method._tuned.embed(token[None])
        start += size
        if len(states) < len(sizes):
            _, features = method._macro_step(group, start - 1, GREEDY)
    return states


def test_the_deepest_feature_gives_the_models_own_logits() -> None:
    tuned = random_decoder(seed=TUNED_SEED)
    method = bound(tuned)
    _, features = method._prefill(prompt(), GREEDY)
    assert torch.allclose(tuned.lm_head(features[-1:]), tuned.prefill(prompt()), atol=1e-6)


def test_sampling_draws_every_token_and_keeps_the_counts() -> None:
    got = run(bound(), prompt(), new=30, sampling=Sampling(temperature=1.0))
    assert len(got.ids) == 30 == sum(sizes_of(got))


def test_it_never_claims_to_be_lossless() -> None:
    for confidence in (0.0, 0.5, 1.1):
        method = bound(confidence=confidence)
        assert method.exactness(GREEDY) is Exactness.LOSSY
        assert method.exactness(Sampler(Sampling(temperature=1.0), CPU, 0)) is Exactness.LOSSY


# -- checkpoints and settings ------------------------------------------------------------------------------


def test_a_saved_model_decodes_as_the_one_in_memory(tmp_path: Path) -> None:
    method = saved(tmp_path)
    method.attach(random_decoder())
    assert run(method, prompt(), new=40) == run(bound(), prompt(), new=40)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.model.layers.2.mlp.up_proj.weight", "missing"),
        ("comp_embedder.merger.pos", "missing"),
        ("micro_step_decoder.stop_head.4.bias", "missing"),
        ("micro_step_decoder.decoders.9.mlp.up_proj.weight", "unexpected"),
        ("teacher.weight", "unexpected"),
        ("comp_embedder.out_proj.weight", "shape"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_the_tensors_name(
    name: str, change: str, tmp_path: Path
) -> None:
    method = saved(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    if change == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(3)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as caught:
        method.attach(random_decoder())
    assert change in caught.value.what
    assert name.removeprefix("model.model.") in caught.value.what


def test_a_plain_checkpoint_is_refused(tmp_path: Path) -> None:
    method = saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["hamburger"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="plain model"):
        method.attach(random_decoder())


def test_without_weights_the_error_says_how_to_make_them(tmp_path: Path) -> None:
    for method in (unattached(), unattached(weights=str(tmp_path / "nothing"))):
        with pytest.raises(UserError) as caught:
            method.attach(random_decoder())
        assert "bench.train method=hamburger" in caught.value.fix


@pytest.mark.parametrize(
    "changes",
    [
        {"position_convention": "first"},
        {"max_group": 0},
        {"singles": 0.7, "random_splits": 0.7},
        {"ratio": 2.0},
        {"token_confidence": 1.5},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"got"):
        unattached(**changes)


def test_features_sit_at_the_quarters_and_shapes_survive_json() -> None:
    shape = HamburgerShape.for_model(random_decoder().config, 4, 2)
    assert shape.feature_layers == (1, 2, 3, 5)
    assert HamburgerShape(**json.loads(json.dumps(shape.plain()))) == shape


@pytest.mark.parametrize("flags", [{}, {"qk_norm": True}, {"qkv_bias": True, "mlp_bias": True}], ids=str)
def test_decoding_expects_the_tensors_that_training_makes(flags: dict[str, bool]) -> None:
    config = replace(random_decoder().config, **flags)  # type: ignore[arg-type]
    shape = HamburgerShape.for_model(config, 4, 2)
    made = HamburgerModel(config, shape)
    for module, expected in (
        (made.comp_embedder, shape.embedder_shapes(config.width)),
        (made.micro_step_decoder, shape.micro_shapes(config)),
    ):
        assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == expected


def test_it_is_trained_as_a_whole() -> None:
    assert isinstance(unattached(), FullTrainable)
    assert isinstance(Hamburger, type)


def test_labels_mix_the_text_with_what_the_untuned_model_says_token_by_token(model: HamburgerModel) -> None:
    decoder = random_decoder()
    ids = prompt(20)
    method = unattached(singles=0.0, floor=10.0, distilled=0.25)
    (whole,) = method.model_trainer().examples(
        model, ids.tolist(), [False] * 8 + [True] * 12, decoder, Random(0)
    )
    assert isinstance(whole, Answer)
    groups = collate([whole], 4, CPU)
    assert groups.labels.tolist() == ids[8:].tolist()
    with torch.no_grad():
        says = decoder.step(ids, 0).softmax(dim=-1)[7:-1]
    expected = 0.25 * says + 0.75 * torch.eye(says.shape[1])[ids[8:]]
    labels = distilled_labels(groups, decoder, 0.25)
    assert labels is not None
    torch.testing.assert_close(labels, expected, atol=1e-5, rtol=0)
    assert distilled_labels(groups, decoder, 0.0) is None


def test_a_distilled_loss_is_the_cross_entropy_against_its_labels(model: HamburgerModel) -> None:
    rotation = random_decoder(seed=TUNED_SEED).placement.rotation(0, 64)
    groups = collate([answer(prompt(12).tolist(), 6, [2, 4])], 4, CPU)
    labels = torch.eye(model.lm_head.shape[0])[groups.labels]
    with torch.no_grad():
        plain, figures = joint_loss(model, groups, rotation, 0.5)
        distilled, same = joint_loss(model, groups, rotation, 0.5, labels)
        flat, _ = joint_loss(model, groups, rotation, 0.5, torch.full_like(labels, 1 / labels.shape[1]))
    torch.testing.assert_close(distilled, plain)
    torch.testing.assert_close(same["ce"], figures["ce"])
    assert float(flat) != pytest.approx(float(plain), abs=1e-3)
