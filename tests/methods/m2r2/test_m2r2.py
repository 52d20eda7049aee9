"""M2R2: accelerated rows next to the target's own, which they never change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.modules import save_module
from bench.runtime.sampling import Sampler, Sampling
from bench.train.trainers.modules import observe
from methods.core.base import Budget, Exactness, NoClock
from methods.early_exit.layerskip import LayerSkip
from methods.m2r2.draft import M2R2
from methods.m2r2.module import accelerated_rows
from tests.methods.hidden_transfer.transfers import EVERY_KIND, built, own_ids
from tests.methods.small import CPU, SHAPE, prompt, random_decoder, run
from tests.pairwise import rotated

DEPTH = SHAPE["num_hidden_layers"]
INTERVALS = [(0, 1), (0, 3), (2, 5)]
DEFAULTS: dict[str, Any] = {
    "weights": None,
    "start": None,
    "exit_layer": None,
    "draft_length": 4,
    "gate": "softmax",
    "threshold": 0.0,
    "lossy": False,
    "rank": 4,
    "targets": ["q", "o", "gate", "up", "down"],
    "layers": "all",
}


def unattached(**changes: Any) -> M2R2:
    return M2R2(**{**DEFAULTS, **changes})


def module_of(decoder: Decoder, interval: tuple[int, int], scale: float, **changes: Any) -> Any:
    """A module whose matrices B are random with this scale; at 0 it is untrained."""
    torch.manual_seed(1)
    module = unattached(start=interval[0], exit_layer=interval[1], **changes).trainer().new_module(decoder)
    for name, value in module.named_parameters():
        if name.endswith(".b"):
            value.data.normal_(0.0, 1.0).mul_(scale)
    return module


def bound(decoder: Decoder, interval: tuple[int, int] = (0, 3), scale: float = 0.3, **changes: Any) -> M2R2:
    method = unattached(**changes)
    settings = {name: changes[name] for name in ("targets", "layers") if name in changes}
    tensors = module_of(decoder, interval, scale, **settings).state_dict()
    method.use(decoder, {name: value.to(decoder.dtype) for name, value in tensors.items()}, interval)
    return method


def saved(decoder: Decoder, folder: Path, **changes: Any) -> M2R2:
    """The method that loads such a module from `folder`."""
    new = unattached(exit_layer=3)
    save_module(folder, module_of(decoder, (0, 3), 0.3).state_dict(), new.trainer().provenance(decoder))
    return unattached(weights=str(folder), **changes)


# -- drafting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "scale", "interval"), rotated(list(EVERY_KIND), [0.0, 0.3], INTERVALS), ids=str
)
def test_greedy_ids_are_the_targets_own(scale: float, interval: tuple[int, int], family: str) -> None:
    decoder = built(EVERY_KIND[family])
    method = bound(decoder, interval, scale)
    for length in (1, 20):
        assert run(method, prompt(length)).ids == own_ids(decoder, prompt(length))
        assert decoder.cache.length == length + 39  # every layer holds all but the newest token


@pytest.mark.parametrize("gate", ["softmax", "arla"])
@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.3, 2.0])
@pytest.mark.parametrize("draft_length", [1, 4])
def test_no_gate_changes_the_output(gate: str, threshold: float, draft_length: int) -> None:
    decoder = random_decoder()
    method = bound(decoder, gate=gate, threshold=threshold, draft_length=draft_length)
    got = run(method, prompt())
    assert got.ids == own_ids(decoder, prompt())
    if threshold > 1:
        assert {step.drafted for step in got.rounds[:-1]} == {1}


@pytest.mark.parametrize("interval", INTERVALS, ids=str)
def test_untrained_it_drafts_what_the_plain_early_exit_drafts(interval: tuple[int, int]) -> None:
    decoder = random_decoder()
    plain = LayerSkip(exit_layer=interval[1], draft_length=4)
    plain.attach(decoder)
    assert run(bound(decoder, interval, scale=0.0), prompt()) == run(plain, prompt())


@pytest.mark.parametrize("interval", INTERVALS, ids=str)
def test_an_untrained_row_is_its_slow_row_bit_for_bit(interval: tuple[int, int]) -> None:
    decoder = random_decoder()
    method = bound(decoder, interval, scale=0.0)
    with torch.inference_mode():
        decoder.prefill(prompt())
        slow, rows = method.accelerate(torch.tensor([5]), 12)
    assert torch.equal(rows[-1:], slow)


@pytest.mark.parametrize("family", EVERY_KIND)
def test_slow_rows_do_not_notice_accelerated_ones(family: str) -> None:
    decoder = built(EVERY_KIND[family], torch.float64)
    method = bound(decoder, (1, 4))
    with torch.inference_mode():
        decoder.prefill(prompt())
        slow, _ = method.accelerate(torch.tensor([5]), 12)
        with_accelerated = [decoder.cache._stores[layer][:, :, 12].clone() for layer in range(4)]
        decoder.cache.truncate(12)
        alone = decoder.run_layers(decoder.embed(torch.tensor([5])), decoder.placement.chain(12, 1), 0, 4)
    torch.testing.assert_close(slow, alone, atol=1e-10, rtol=0)
    for layer, stored in enumerate(with_accelerated):
        torch.testing.assert_close(decoder.cache._stores[layer][:, :, 12], stored, atol=1e-10, rtol=0)


def test_after_every_round_the_cache_is_that_of_plain_decoding() -> None:
    decoder = built(EVERY_KIND["llama"], torch.float64)
    method, caches = bound(decoder), []
    commit = method.commit

    def noting(emitted: Tensor, base: int) -> None:
        commit(emitted, base)
        assert decoder.cache.length == base + emitted.numel()
        caches.append([store[:, :, : decoder.cache.length].clone() for store in decoder.cache._stores])

    method.commit = noting  # type: ignore[method-assign]
    got = run(method, prompt(), new=25)
    text = torch.cat([prompt(), torch.tensor(got.ids)])
    with torch.inference_mode():
        decoder.prefill(text[: 12 + 24])
    for cache in caches:
        for ours, plain in zip(cache, decoder.cache._stores, strict=True):
            end = min(ours.shape[2], 36)
            torch.testing.assert_close(ours[:, :, :end], plain[:, :, :end], atol=1e-10, rtol=0)


# -- training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", EVERY_KIND)
@pytest.mark.parametrize(
    "changes", [{}, {"layers": "last"}, {"targets": ["q", "down"]}, {"targets": ["up", "o"]}], ids=str
)
def test_training_rows_are_decoding_rows(changes: dict[str, Any], family: str) -> None:
    decoder, interval = built(EVERY_KIND[family]), (1, 4)
    module, method = module_of(decoder, interval, 0.3, **changes), bound(decoder, interval, **changes)
    ids = prompt(20)
    rows = observe(unattached(start=1, exit_layer=4).trainer(), decoder, ids.tolist(), [True] * 20)
    with torch.inference_mode():
        trained = torch.stack(accelerated_rows(module.adapters, rows, interval, decoder))
        for place in (0, 5, 19):
            if place:
                decoder.prefill(ids[:place])
            else:
                decoder.cache.truncate(0)
            _, rows = method.accelerate(ids[place : place + 1], place)
            torch.testing.assert_close(rows, trained[:, place], atol=1e-4, rtol=1e-4)


def test_training_moves_the_module_and_nothing_of_the_target() -> None:
    decoder = random_decoder()
    method = unattached(exit_layer=2)
    module = method.trainer().new_module(decoder)
    rows = observe(method.trainer(), decoder, prompt(30).tolist(), [False] * 10 + [True] * 20)
    before = decoder.head(rows.hidden[2]).clone()
    losses = []
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(30):
        loss, figures = method.trainer().loss(module, rows, decoder)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    least = float(rows.likely.entropy.mean())  # of the cross-entropy; the gate's loss comes on top
    assert losses[-1] - least < (losses[0] - least) / 2
    assert figures["accept"] > 0
    assert not decoder.embedding.requires_grad
    assert torch.equal(decoder.head(rows.hidden[2]), before)


def test_an_untrained_gate_lets_nothing_out() -> None:
    decoder = random_decoder()
    module = module_of(decoder, (0, 2), 0.3)
    gate = module.arla(torch.randn(2, 5, SHAPE["hidden_size"])).sigmoid()
    assert gate.tolist() == pytest.approx([0.018] * 5, abs=1e-3)


# -- dynamic compute -----------------------------------------------------------------------------------------


def test_a_gate_that_never_opens_is_plain_decoding() -> None:
    decoder = random_decoder()
    got = run(bound(decoder, lossy=True, threshold=2.0), prompt())
    assert got.ids == own_ids(decoder, prompt())
    assert {(step.drafted, step.emitted) for step in got.rounds} == {(0, 1)}


def test_a_gate_that_is_always_open_never_verifies() -> None:
    got = run(bound(random_decoder(), lossy=True, threshold=0.0), prompt(), new=20)
    assert [(step.drafted, step.accepted, step.emitted) for step in got.rounds] == [(19, 19, 19)]


@pytest.mark.parametrize("pattern", [(1, 0), (1, 1, 0), (0, 1, 1, 1, 0)], ids=str)
def test_layers_that_tokens_left_early_catch_up_exactly(pattern: tuple[int, ...]) -> None:
    decoder = built(EVERY_KIND["llama"], torch.float64)
    method, calls = bound(decoder, lossy=True), []

    def scripted(logits: Tensor, rows: Tensor) -> bool:
        calls.append(0)
        return bool(pattern[(len(calls) - 1) % len(pattern)])

    method.is_sure = scripted  # type: ignore[method-assign]
    new = 1 + 4 * len(pattern)  # ends after a token that ran through all layers
    got = run(method, prompt(), new=new)
    assert sum(step.emitted for step in got.rounds) == new - 1
    assert len(got.rounds) == 4 * pattern.count(0)
    ours = [store[:, :, : decoder.cache.length].clone() for store in decoder.cache._stores]
    with torch.inference_mode():
        decoder.prefill(torch.cat([prompt(), torch.tensor(got.ids[:-1])]))
    assert decoder.cache.length == ours[0].shape[2]
    for mine, plain in zip(ours, decoder.cache._stores, strict=True):
        torch.testing.assert_close(mine, plain[:, :, : mine.shape[2]], atol=1e-9, rtol=0)


def test_dynamic_compute_is_lossy_whatever_the_sampler() -> None:
    greedy, sampled = (Sampler(Sampling(heat), CPU, 0) for heat in (0.0, 1.0))
    assert {unattached(lossy=True).exactness(sampler) for sampler in (greedy, sampled)} == {Exactness.LOSSY}
    assert unattached().exactness(greedy) is Exactness.GREEDY_EXACT
    assert unattached().exactness(sampled) is Exactness.SAMPLING_EXACT


def test_a_gap_in_the_deep_layers_is_an_error() -> None:
    from methods.m2r2.dynamic import catch_up

    decoder = random_decoder()
    with torch.inference_mode():
        decoder.prefill(prompt())
        with pytest.raises(RuntimeError, match="deep layers hold 12 rows, the next is 14"):
            catch_up(decoder, [decoder.embed(torch.tensor([1]))], 14, 3)


# -- settings ------------------------------------------------------------------------------------------------


def test_weights_say_what_they_were_trained_for(tmp_path: Path) -> None:
    decoder = random_decoder()
    method = saved(decoder, tmp_path)
    method.attach(decoder)
    assert method.exit_layer == 3
    with pytest.raises(UserError, match=r"were trained for layers \(0, 3\), not \(0, 2\)"):
        unattached(weights=str(tmp_path), exit_layer=2).attach(decoder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draft_length": 0}, "draft_length and rank must be at least 1, got 0"),
        ({"gate": "coin"}, "gate in"),
        ({"targets": ["k"]}, "targets must be some of q, o, gate, up, down"),
        ({"threshold": -1.0}, "threshold must be at least 0"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unattached(**changes)


def test_without_weights_the_error_names_the_command() -> None:
    with pytest.raises(UserError) as caught:
        unattached().attach(random_decoder())
    assert "bench.train method=m2r2" in caught.value.fix


def test_early_tokens_waiting_at_the_end_are_in_the_last_round() -> None:
    decoder = random_decoder()
    method = bound(decoder, lossy=True, threshold=0.0)
    with torch.inference_mode():
        got = method.generate(prompt(), Budget(8, frozenset()), Sampler(Sampling(), CPU, 0), NoClock())
    assert len(got.ids) == 8
    assert got.rounds[-1].emitted == 7
