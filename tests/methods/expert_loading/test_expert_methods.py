"""Methods that load experts: what they count and refuse, and that M2R2's maps are trained as decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder, Layer
from bench.runtime.experts.placement import mixtures_of
from bench.runtime.experts.prediction import LaterRouter
from bench.runtime.experts.slow_memory import Key
from bench.runtime.modules import save_module
from bench.train.trainers.modules import observe
from methods.core.autoregressive import Autoregressive
from methods.core.base import Exactness, ModuleTrainer, Trainable
from methods.expert_loading.changes import map_shapes, maps_of
from methods.expert_loading.loading import (
    AcceleratedExperts,
    ExpertLoading,
    NextLayerExperts,
    OnDemandExperts,
    PreviousExperts,
)
from methods.expert_loading.module import entering_experts, recall
from tests.methods.small import SPARSE, prompt, random_decoder, run

RATE = {"megabytes_per_s": 2000.0}
ACCELERATED: dict[str, Any] = {"slots": None, "candidates": None, "ahead": None, "rank": 4, **RATE}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return random_decoder(SPARSE)


def saved(decoder: Decoder, folder: Path, scale: float = 0.0) -> str:
    """A folder with maps of random matrices of this scale; at 0 they change nothing."""
    torch.manual_seed(2)
    trainer = accelerated(None).trainer()
    module = trainer.new_module(decoder)
    for value in module.parameters():
        value.data.normal_(0.0, 1.0).mul_(scale)
    save_module(folder, module.state_dict(), trainer.provenance(decoder))
    return str(folder)


def accelerated(weights: str | None, **changes: Any) -> AcceleratedExperts:
    return AcceleratedExperts(weights=weights, **{**ACCELERATED, **changes})


def makers(decoder: Decoder, folder: Path) -> list[Callable[..., ExpertLoading]]:
    return [
        partial(OnDemandExperts, **RATE),
        partial(PreviousExperts, **RATE),
        partial(NextLayerExperts, candidates=3, **RATE),
        partial(accelerated, saved(decoder, folder, 0.3)),
    ]


@pytest.mark.parametrize("slots", [1, 3, 12, None])
def test_every_method_gives_the_models_ids_and_counts_that_add_up(
    slots: int | None, decoder: Decoder, tmp_path: Path
) -> None:
    plain = Autoregressive()
    plain.attach(decoder)
    expected = run(plain, prompt(), new=12).ids
    needs = []
    for make in makers(decoder, tmp_path):
        method = make(slots=slots)
        method.attach(decoder)
        made = run(method, prompt(), new=12)
        counts = made.counts
        assert made.ids == expected
        assert counts["experts_hit"] + counts["experts_late"] <= counts["experts_needed"]
        assert counts["expert_bytes"] == counts["experts_loaded"] * 3 * 32 * 64 * 4
        assert counts["experts_wasted"] <= counts["experts_loaded"]
        assert counts["expert_stall_us"] >= 0
        needs.append(counts["experts_needed"])
    assert needs == [11 * 6 * 2] * 4  # 11 decode passes of one row, 6 layers, 2 experts; no prefill


def test_nothing_is_drafted_and_the_output_is_promised(decoder: Decoder) -> None:
    method = OnDemandExperts(slots=4, **RATE)
    method.attach(decoder)
    made = run(method, prompt(), new=5)
    assert all((step.drafted, step.emitted) == (0, 1) for step in made.rounds)
    assert method.exactness(type("Greedy", (), {"is_greedy": True})()) is Exactness.GREEDY_EXACT


def test_a_store_keeps_its_experts_from_answer_to_answer(decoder: Decoder) -> None:
    method = OnDemandExperts(slots=24, **RATE)
    method.attach(decoder)
    run(method, prompt(), new=12)
    assert run(method, prompt(), new=12).counts["experts_loaded"] == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: OnDemandExperts(slots=0, **RATE),
        lambda: OnDemandExperts(slots=1, megabytes_per_s=0.0),
        lambda: NextLayerExperts(slots=1, candidates=0, **RATE),
        lambda: accelerated(None, rank=0),
        lambda: accelerated(None, ahead=0),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], ExpertLoading]) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


def test_a_model_without_experts_is_refused() -> None:
    for method in (OnDemandExperts(slots=None, **RATE), accelerated(None)):
        with pytest.raises(UserError, match="has no mixtures of experts"):
            method.attach(random_decoder())


def test_maps_are_needed_and_only_for_what_they_were_trained_for(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"method\.weights is not set"):
        accelerated(None).attach(decoder)
    weights = saved(decoder, tmp_path)
    with pytest.raises(UserError, match="trained for ahead=2, not 3"):
        accelerated(weights, ahead=3).attach(decoder)


# -- training ------------------------------------------------------------------------------------------------


class Watch:
    """Notes the rows that enter the experts of each layer, and predicts nothing."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.seen = inner, torch.empty(0)

    def take(self, chosen: Sequence[int], hidden: Tensor) -> Any:
        self.seen = hidden
        return self.inner.take(chosen, hidden)


def rows_of(decoder: Decoder, trainer: ModuleTrainer) -> Any:
    ids = prompt(20).tolist()
    return observe(trainer, decoder, ids, [True] * len(ids))


def test_training_sees_the_rows_that_decoding_routes(decoder: Decoder) -> None:
    rows = rows_of(decoder, accelerated(None).trainer())
    watches = {layer: Watch(moe.experts) for layer, moe in mixtures_of(decoder).items()}
    layers = [
        Layer(layer.attention, replace(layer.mlp, experts=watches[index]))  # type: ignore[type-var]
        for index, layer in enumerate(decoder.layers)
    ]
    watched = Decoder(replace(decoder.weights, layers=layers), decoder.cache, decoder.placement)
    with torch.no_grad():
        watched.prefill(rows.ids)
        for layer, watch in watches.items():
            assert float((entering_experts(layer, rows, decoder) - watch.seen).abs().max()) < 1e-4


def test_maps_that_change_nothing_ask_the_later_router_of_the_present_rows(decoder: Decoder) -> None:
    mixtures, eps = mixtures_of(decoder), decoder.config.norm_eps
    shapes = map_shapes(sorted(mixtures), 2, 4, 32)
    maps = maps_of({name: torch.zeros(shape) for name, shape in shapes.items()}, sorted(mixtures), 2)
    plain = LaterRouter(mixtures, eps, ahead=2, experts=2)
    changed = LaterRouter(mixtures, eps, ahead=2, experts=2, maps=maps)
    hidden = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    named: list[Sequence[Key]] = [router.after(0, [0], hidden) for router in (plain, changed)]
    assert named[0] == named[1]
    assert [key[0] for key in named[0]] == [1, 1, 2, 2]


def test_training_lowers_the_loss_and_leaves_the_model_alone(decoder: Decoder) -> None:
    method = accelerated(None)
    assert isinstance(method, Trainable)
    trainer = method.trainer()
    rows, module = rows_of(decoder, trainer), trainer.new_module(decoder)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert shapes == map_shapes(sorted(mixtures_of(decoder)), 2, 4, 32)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss, figures = trainer.loss(module, rows, decoder)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert 0 <= figures["recall_unchanged"] < figures["recall"] <= 1
    assert decoder.lm_head.weight.grad is None


def test_recall_is_the_share_of_true_experts_among_the_guessed_ones() -> None:
    true, guess = (
        torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]),
        torch.tensor([[1.0, 2.0, 3.0], [9.0, 5.0, 0.0]]),
    )
    assert recall(true, guess, 2) == 0.75
    assert recall(true, guess, 1) == 0.5
