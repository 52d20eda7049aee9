"""Layers over several devices: who holds what, what is refused, and passes that hop."""

from __future__ import annotations

import pytest
import torch

from bench.compose.schema import RuntimeConfig
from bench.compose.workbench import options_for
from bench.errors import UserError
from bench.runtime.cache import KVCache
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions, over_devices
from bench.runtime.several_devices import Load, SpreadCache, parts_of
from bench.runtime.tier_choice import choose_tier, spread_over
from tests.methods.small import config_of
from tests.runtime.pretended_cuda.device import PretendedCuda
from tests.runtime.pretended_cuda.models import VOCABULARY, decoder_on
from tests.runtime.pretended_cuda.tensors import CUDA

CPU = torch.device("cpu")
GPUS = tuple(torch.device("cuda", index) for index in range(4))


def counts(load: Load, rooms: list[int]) -> list[int]:
    """Layers of each device."""
    placed = load.share(GPUS[: len(rooms)], rooms)
    assert placed == sorted(placed, key=lambda device: device.index)  # runs of layers, home first
    return [placed.count(device) for device in GPUS[: len(rooms)]]


def test_equal_devices_hold_equal_shares_and_home_fewer_layers() -> None:
    assert counts(Load(0, (10,) * 8), [100, 100]) == [4, 4]
    assert counts(Load(20, (10,) * 8), [100, 100]) == [3, 5]
    assert counts(Load(0, (10,) * 9), [100, 100, 100]) == [3, 3, 3]


def test_a_smaller_device_holds_less() -> None:
    assert counts(Load(0, (10,) * 9), [100, 200]) == [3, 6]


def test_home_holds_the_first_layer_and_every_device_one() -> None:
    assert counts(Load(500, (10,) * 4), [1000, 1000]) == [1, 3]
    assert counts(Load(0, (10,) * 4), [1000, 1000, 1000, 1000]) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("load", "rooms", "what"),
    [
        (Load(0, (10,)), [100, 100], "the model has 1 layers"),
        (Load(0, (10 << 30,) * 4), [20 << 30, 10 << 30], "need 40.0 GiB, and 2 devices have 30.0 GiB"),
        (Load(30 << 30, (10 << 30,) * 3), [30 << 30, 31 << 30], "cuda:0 would hold 40.0 GiB, and has 30.0"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_sums(load: Load, rooms: list[int], what: str) -> None:
    with pytest.raises(UserError, match=what):
        load.share(GPUS[: len(rooms)], rooms)


def test_a_load_counts_weights_and_the_cache_of_every_layer() -> None:
    shapes = {
        "model.embed_tokens.weight": (5, 4),
        "model.layers.0.mlp.down_proj.weight": (4, 6),
        "model.layers.1.mlp.down_proj.weight": (4, 6),
        "model.layers.1.input_layernorm.weight": (4,),
        "model.norm.weight": (4,),
    }
    assert Load.of(shapes, 2, 100) == Load(2 * 24, (100 + 48, 100 + 56))


def test_too_few_gpus_and_tiers_of_one_device_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spread_over(1, "graph", GPUS[0]) == ()
    with pytest.raises(UserError, match="this run is on the CPU"):
        spread_over(2, "auto", CPU)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert spread_over(3, "auto", GPUS[0]) == GPUS[:3]
    with pytest.raises(UserError, match="PyTorch finds 3 GPUs") as mistake:
        spread_over(4, "auto", GPUS[0])
    assert mistake.value.fix == "use runtime.devices=3"
    with pytest.raises(UserError, match="graph runs on one device"):
        spread_over(2, "graph", GPUS[0])
    assert choose_tier("auto", GPUS[0], is_spread=True) == "static"


def test_every_layer_gets_a_device_by_the_memory_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = {CPU: 1 << 30, GPUS[0]: 2 << 30}
    monkeypatch.setattr("bench.runtime.loading.memory_bytes", rooms.__getitem__)
    config = config_of("llama", num_hidden_layers=6)
    shapes = {f"model.layers.{index}.weight": (100, 100) for index in range(6)}
    options = RuntimeOptions(CPU, torch.float32, 64, spread=(CPU, GPUS[0]))
    placed = over_devices(options, config, shapes)
    assert placed.layer_devices == (CPU,) * 2 + (GPUS[0],) * 4
    assert placed.place("model.layers.5.weight") == GPUS[0]
    assert placed.place("lm_head.weight") == CPU


def test_a_spread_cache_keeps_a_path_as_one_cache_does() -> None:
    with PretendedCuda():
        spread = SpreadCache(parts_of([CPU, CPU, CUDA]), 2, 16, 4, torch.float32)
        plain = KVCache(3, 2, 16, 4, torch.float32, CPU)
        for layer in range(3):
            rows = torch.randn(9, 4, 4)
            plain.write(layer, 0, rows)
            spread.write(layer, 0, rows.to(spread.stores[layer].device))
        for cache in (spread, plain):
            cache.keep(4, torch.tensor([0, 2, 4]))
        assert spread.lengths == plain.lengths == [7, 7, 7]
        assert spread.devices == [CPU, CUDA]
        for mine, other in zip(spread.stores, plain.stores, strict=True):
            assert torch.equal(mine.cpu()[:, :, :7], other[:, :, :7])


@pytest.mark.usefixtures("torch_products")
def test_taps_and_rows_come_home() -> None:
    ids = torch.arange(9) % VOCABULARY
    single = decoder_on(6, CPU, "static")
    with PretendedCuda():
        spread = decoder_on(6, CPU, "static", layer_devices=(CPU, CPU, CUDA, CUDA, CPU, CPU))
        for start, stop in ((0, 6), (2, 3), (4, 6)):
            passes = [_tapped(decoder, ids, start, stop) for decoder in (single, spread)]
            (plain, taps), (hopped, hopped_taps) = passes
            torch.testing.assert_close(plain, hopped)
            torch.testing.assert_close(taps, hopped_taps)


def _tapped(
    decoder: Decoder, ids: torch.Tensor, start: int, stop: int
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    decoder.cache.truncate(0)
    taps = {layer: torch.empty(0) for layer in range(start, stop + 1)}
    rows = decoder.placement.chain(0, ids.numel())
    return decoder.run_layers(decoder.embed(ids), rows, start, stop, taps=taps), taps


def test_a_run_on_a_cpu_refuses_several_devices() -> None:
    with pytest.raises(UserError, match="but this run is on the CPU"):
        options_for(RuntimeConfig(device="cpu", devices=2))
