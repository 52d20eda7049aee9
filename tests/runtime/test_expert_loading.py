"""Experts that are loaded in time: the output never changes, and a fault ends in a clear error."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.experts import fast_store
from bench.runtime.experts.fast_store import FastStore
from bench.runtime.experts.placement import mixtures_of, slow_memory, with_store
from bench.runtime.experts.prediction import (
    LaterRouter,
    LowRankMap,
    OnDemand,
    Predictor,
    PreviousToken,
    predicted_layers,
)
from bench.runtime.experts.slow_memory import Key, SlowMemory
from bench.runtime.moe import Expert
from tests.pairwise import rotated
from tests.runtime.models import CONFIGS, tiny_pair, tokens
from tests.runtime.moes import MOES

FAST = 1e9
PROMPT = torch.tensor(tokens(9))
STEPS = 14


FAMILIES = ["olmoe", "qwen2-dense-layer", "qwen3-every-second-layer", "mixtral"]


@pytest.fixture(scope="module")
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return tiny_pair(MOES[request.param], tmp_path_factory.mktemp("checkpoint")).decoder


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return tiny_pair(MOES["olmoe"], tmp_path_factory.mktemp("checkpoint")).decoder


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def logits(decoder: Decoder) -> Tensor:
    """Of a greedy answer, shape [STEPS, V]."""
    made = [decoder.prefill(PROMPT)]
    for base in range(PROMPT.numel(), PROMPT.numel() + STEPS - 1):
        made.append(decoder.step(made[-1].argmax(dim=-1), base))
    return torch.cat(made)


class Adversary:
    """Predicts what is wrong: every expert of every layer but those that were chosen."""

    def __init__(self, layers: Sequence[int], experts: int) -> None:
        self._all = [(layer, number) for layer in layers for number in range(experts)]

    def after(self, layer: int, chosen: Sequence[int], hidden: Tensor) -> Sequence[Key]:
        return [key for key in self._all if key[0] != layer or key[1] not in chosen]


class Recorder:
    """Predicts nothing, and notes what each call chose."""

    def __init__(self) -> None:
        self.calls: list[list[Key]] = []

    def after(self, layer: int, chosen: Sequence[int], hidden: Tensor) -> Sequence[Key]:
        self.calls.append([(layer, number) for number in chosen])
        return ()


class Replay:
    """Predicts exactly what the next call will choose."""

    def __init__(self, calls: Sequence[Sequence[Key]]) -> None:
        self._next = iter([*calls[1:], ()])

    def after(self, layer: int, chosen: Sequence[int], hidden: Tensor) -> Sequence[Key]:
        return next(self._next)


class Stubborn:
    """Predicts the same two experts of the next layer, whatever the rows."""

    def after(self, layer: int, chosen: Sequence[int], hidden: Tensor) -> Sequence[Key]:
        return [((layer + 1) % 3, number) for number in (0, 1)]


def predictors(decoder: Decoder) -> dict[str, Predictor]:
    mixtures, width = mixtures_of(decoder), decoder.config.width
    layers, eps = sorted(mixtures), decoder.config.norm_eps
    generator = torch.Generator().manual_seed(1)
    maps = {
        (layer, later): LowRankMap(
            torch.randn(width, 2, generator=generator),
            torch.randn(2, width, generator=generator),
            torch.randn(width, generator=generator),
        )
        for layer, several in predicted_layers(layers, 2).items()
        for later in several
    }
    experts = next(iter(mixtures.values())).config.experts
    return {
        "on demand": OnDemand(),
        "previous token": PreviousToken(layers),
        "next layer": LaterRouter(mixtures, eps, ahead=1, experts=2),
        "two ahead, changed": LaterRouter(mixtures, eps, ahead=2, experts=experts, maps=maps),
        "adversary": Adversary(layers, experts),
    }


POLICIES = ["on demand", "previous token", "next layer", "two ahead, changed", "adversary"]


@pytest.mark.parametrize(
    ("policy", "capacity", "decoder"), rotated(POLICIES, [1, 2, 3, 5, 100], FAMILIES), indirect=["decoder"]
)
def test_the_output_is_that_of_resident_experts_bit_for_bit(
    decoder: Decoder, policy: str, capacity: int
) -> None:
    expected = logits(decoder)
    store = FastStore(slow_memory(decoder, FAST), capacity)
    stored = with_store(decoder, store, predictors(decoder)[policy])
    for _ in range(2):  # once into an empty store, once into a full one
        with store:
            assert torch.equal(logits(stored), expected)
    assert len(store.resident) <= capacity
    assert store.counts.needed >= store.counts.hits + store.counts.late
    assert not any(slot.is_pinned for slot in store._slots.values())
    assert len(store._free) + len(store._slots) == capacity


def test_a_store_that_holds_everything_loads_everything_once(olmoe: Decoder) -> None:
    store = FastStore(slow_memory(olmoe, FAST), 18)
    stored = with_store(olmoe, store, OnDemand())
    with store:
        for _ in range(3):
            logits(stored)
    assert store.counts.loads == len(store.resident) <= 18
    assert store.counts.wasted == store.counts.late == 0
    assert store.counts.hits == store.counts.needed - store.counts.loads


def test_the_rate_is_kept_and_stalls_are_counted(olmoe: Decoder) -> None:
    memory = slow_memory(olmoe, 1e6)
    store = FastStore(memory, 2)
    begun = time.perf_counter()
    with store:
        logits(with_store(olmoe, store, OnDemand()))
    passed = time.perf_counter() - begun
    least = store.counts.loads * memory.expert_bytes / 1e6
    assert passed > least
    assert 0.5 * least < store.counts.stall_s < passed
    assert memory.expert_bytes == 3 * 32 * 40 * 4  # gate, up and down in fp32


def test_right_predictions_hide_loads_and_wrong_ones_are_counted_as_waste(olmoe: Decoder) -> None:
    memory = slow_memory(olmoe, FAST)
    store = FastStore(memory, 6)
    with store:
        logits(with_store(olmoe, store, Stubborn()))
    assert store.counts.wasted > 0
    lazy, record = FastStore(memory, 6), Recorder()
    with lazy:
        logits(with_store(olmoe, lazy, record))
    informed = FastStore(memory, 6)
    with informed:
        logits(with_store(olmoe, informed, Replay(record.calls)))
    assert informed.counts.needed == lazy.counts.needed
    assert informed.counts.late + informed.counts.hits > lazy.counts.hits


def keys_of(memory: SlowMemory) -> list[Key]:
    return sorted(memory._offsets)


def test_a_full_store_drops_predictions_and_keeps_what_is_in_use(olmoe: Decoder) -> None:
    memory = slow_memory(olmoe, FAST)
    with FastStore(memory, 2) as store:
        needed, guesses = keys_of(memory)[:2], keys_of(memory)[2:6]
        store.demand(needed)
        taken = store.take(needed)
        next(taken)
        store.predict(guesses)
        assert store.counts.dropped == 4
        next(taken)
        assert sorted(store.resident) == needed
        taken.close()


def test_a_demand_overtakes_predictions(olmoe: Decoder) -> None:
    memory = slow_memory(olmoe, 2e5)  # about 80 ms an expert
    order = []
    read = memory.read

    def noted(key: Key, into: Expert) -> None:
        order.append(key)
        read(key, into)

    memory.read = noted  # type: ignore[method-assign]
    every = keys_of(memory)
    with FastStore(memory, 8) as store:
        store.predict(every[:4])
        time.sleep(0.03)
        store.demand(every[6:7])
        assert [key for key, _ in store.take(every[6:7])] == every[6:7]
        assert order[:2] == [every[0], every[6]]


def test_a_predicted_expert_that_is_needed_is_read_next(olmoe: Decoder) -> None:
    memory, order = slow_memory(olmoe, 2e5), list[Key]()
    read = memory.read

    def noted(key: Key, into: Expert) -> None:
        order.append(key)
        read(key, into)

    memory.read = noted  # type: ignore[method-assign]
    every = keys_of(memory)
    with FastStore(memory, 8) as store:
        store.predict(every[:4])
        time.sleep(0.03)
        store.demand(every[3:4])
        list(store.take(every[3:4]))
        assert (order[:2], store.counts.late) == ([every[0], every[3]], 1)


def test_predictions_of_a_layer_that_was_computed_are_cancelled(olmoe: Decoder) -> None:
    memory = slow_memory(olmoe, 2e5)
    with FastStore(memory, 8) as store:
        store.predict([(0, 0), (0, 1), (0, 2), (1, 0)])
        time.sleep(0.03)
        store.cancel(0, but=[2])
        store.demand([(0, 2), (1, 0)])
        list(store.take([(0, 2), (1, 0)]))
        assert set(store.resident) == {(0, 0), (0, 2), (1, 0)}  # the first was being read already


class Killed(SlowMemory):
    """Ends the thread that reads after some reads."""

    left = 5

    def read(self, key: Key, into: Expert) -> None:
        self.left -= 1
        if self.left == 0:
            raise SystemExit  # ends a thread without a word
        super().read(key, into)


def memory_like(decoder: Decoder, kind: type[SlowMemory]) -> SlowMemory:
    experts = {
        (layer, number): expert
        for layer, moe in mixtures_of(decoder).items()
        for number, expert in moe.experts.take(range(6), decoder.embedding[:1])
    }
    return kind(experts, FAST)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_loader_is_an_error_and_the_next_answer_is_right(
    olmoe: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_store, "PATIENCE_S", 0.02)
    expected = logits(olmoe)
    store = FastStore(memory_like(olmoe, Killed), 4)
    stored = with_store(olmoe, store, OnDemand())
    with store, pytest.raises(RuntimeError, match="the thread that loads experts has ended"):
        logits(stored)
    with store:
        assert torch.equal(logits(stored), expected)


class Failing(SlowMemory):
    """Breaks down at one read."""

    left = 5

    def read(self, key: Key, into: Expert) -> None:
        self.left -= 1
        if self.left == 0:
            into.down.buffer.fill_(7.0)
            raise OSError("the disk is gone")
        super().read(key, into)


def test_a_failed_read_names_its_cause_and_its_half_is_never_used(olmoe: Decoder) -> None:
    expected = logits(olmoe)
    store = FastStore(memory_like(olmoe, Failing), 4)
    stored = with_store(olmoe, store, OnDemand())
    with store, pytest.raises(RuntimeError, match="has ended") as caught:
        logits(stored)
    assert "the disk is gone" in str(caught.value.__cause__)
    with store:
        assert torch.equal(logits(stored), expected)


def test_a_short_read_is_an_error_and_never_a_wrong_expert(olmoe: Decoder) -> None:
    memory = slow_memory(olmoe, FAST)
    whole = memory._file.seek(0, 2)
    memory._file.truncate(whole - 100)
    store = FastStore(memory, 4)
    with store, pytest.raises(UserError, match=r"of layer 2 could not be read: .* bytes came"):
        logits(with_store(olmoe, store, Adversary([2], 6)))


def test_the_loading_thread_lives_only_while_the_store_is_in_use(olmoe: Decoder) -> None:
    store = FastStore(slow_memory(olmoe, FAST), 4)
    before = threading.active_count()
    with store:
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="has ended"):
        logits(with_store(olmoe, store, OnDemand()))


def test_a_store_without_room_is_refused(olmoe: Decoder) -> None:
    with pytest.raises(UserError, match="a store of 0 experts"):
        FastStore(slow_memory(olmoe, FAST), 0)


def test_a_model_without_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no mixtures of experts"):
        slow_memory(tiny_pair(CONFIGS["llama-mha"], tmp_path).decoder, FAST)


def test_every_layer_but_the_first_is_predicted_once() -> None:
    assert predicted_layers([0, 1, 2, 3, 4], 2) == {0: (1, 2), 1: (3,), 2: (4,)}
    assert predicted_layers([1, 3, 5], 1) == {1: (3,), 3: (5,)}
    assert predicted_layers([4], 2) == {}
