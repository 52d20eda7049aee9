"""The decoder gives transformers' logits, for every family and every way a method may cut a pass.

Every test that takes a `pair` runs for every family, in one of the tiers; each family and each test meets all
tiers (`tests.pairwise`).

Shapes: T tokens, V vocabulary, L layers.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import bench.runtime.linear
from bench.errors import UserError
from bench.runtime.decoder import Decoder, Skip, Tier
from bench.runtime.delta import Projection
from bench.runtime.layers import Layer, Mlp
from bench.runtime.linear import Linear
from tests.pairwise import pairwise
from tests.runtime.models import (
    AUTO,
    CONFIGS,
    CONTEXT,
    Pair,
    oracle_logits,
    tiny_model,
    tiny_pair,
    tokens,
)

PROMPT = tokens(13)
MORE = tokens(6, seed=2)
TREE_PARENTS = [-1, 0, 0, 1, 2, 2, 4]  # a root with two children, paths of unlike depth
TREE_TOKENS = tokens(7, seed=3)


TIERS = sorted({"static", AUTO})


def users_of_pair(module: ModuleType) -> list[str]:
    """Names of the tests that take a `pair`."""
    classes = [value for value in vars(module).values() if inspect.isclass(value)]
    functions = [value for owner in classes for value in vars(owner).values() if inspect.isfunction(value)]
    return [
        function.__qualname__
        for function in functions
        if function.__name__.startswith("test_") and "pair" in inspect.signature(function).parameters
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the tiers so that every two of test, family and tier meet."""
    if "pair" in metafunc.fixturenames:
        rows = pairwise(users_of_pair(metafunc.module), list(CONFIGS), TIERS)
        chosen = [(family, tier) for test, family, tier in rows if test == metafunc.function.__qualname__]
        metafunc.parametrize("pair", chosen, ids=["-".join(names) for names in chosen], indirect=True)


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family, tier = request.param
    return tiny_pair(CONFIGS[family], tmp_path_factory.mktemp("checkpoint"), tier, oracle_of(family))


@pytest.fixture(scope="module", params=list(CONFIGS))
def static(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """In the static tier: on a CPU passes with a delta are that tier's."""
    family = request.param
    return tiny_pair(CONFIGS[family], tmp_path_factory.mktemp("checkpoint"), oracle=oracle_of(family))


@cache
def oracle_of(family: str) -> Any:
    """The transformers model of a family, which no test changes."""
    return tiny_model(CONFIGS[family])


@pytest.fixture(scope="module", params=TIERS)
def tier(request: pytest.FixtureRequest) -> Tier:
    chosen: Tier = request.param
    return chosen


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tier: Tier) -> Pair:
    return tiny_pair(CONFIGS["llama-gqa-llama3-rope"], tmp_path_factory.mktemp("llama"), tier)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= 1e-5


def ids(tokens: list[int]) -> Tensor:
    return torch.tensor(tokens, dtype=torch.long)


def path_to(node: int) -> list[int]:
    """Nodes from the tree's root to `node`."""
    return [] if node < 0 else [*path_to(TREE_PARENTS[node]), node]


def tree_shape() -> tuple[Tensor, Tensor]:
    """Depths [R] and visibility [R, R] of the tree."""
    sees = torch.zeros(len(TREE_PARENTS), len(TREE_PARENTS), dtype=torch.bool)
    for node in range(len(TREE_PARENTS)):
        sees[node, path_to(node)] = True
    return sees.sum(dim=1) - 1, sees


class TestPasses:
    """A pass over rows equals a fresh forward of the oracle."""

    def test_prefill_gives_the_logits_after_the_prompt(self, pair: Pair) -> None:
        assert_same(pair.decoder.prefill(ids(PROMPT)), pair.logits(PROMPT)[-1:])

    def test_all_rows_of_a_prefill(self, pair: Pair) -> None:
        taps = {pair.decoder.depth: torch.empty(0)}
        pair.decoder.prefill(ids(PROMPT), taps)
        assert_same(pair.decoder.head(taps[pair.decoder.depth]), pair.logits(PROMPT))

    def test_prompt_of_one_token(self, pair: Pair) -> None:
        assert_same(pair.decoder.prefill(ids(PROMPT[:1])), pair.logits(PROMPT[:1]))

    def test_one_token_at_a_time(self, pair: Pair) -> None:
        pair.decoder.cache.truncate(0)
        steps = [pair.decoder.step(ids([token]), base) for base, token in enumerate(PROMPT)]
        assert_same(torch.cat(steps), pair.logits(PROMPT))

    def test_verifying_a_chain_after_a_prefix(self, pair: Pair) -> None:
        pair.decoder.prefill(ids(PROMPT))
        got = pair.decoder.step(ids(MORE), len(PROMPT))
        assert_same(got, pair.logits(PROMPT + MORE)[len(PROMPT) :])

    def test_rejected_rows_leave_no_trace(self, pair: Pair) -> None:
        pair.decoder.prefill(ids(PROMPT))
        pair.decoder.step(ids(MORE[::-1]), len(PROMPT))
        pair.decoder.cache.truncate(len(PROMPT) + 1)
        got = pair.decoder.step(ids(MORE), len(PROMPT) + 1)
        sequence = [*PROMPT, MORE[-1], *MORE]
        assert_same(got, pair.logits(sequence)[len(PROMPT) + 1 :])

    def test_filling_the_cache_to_its_last_slot(self, pair: Pair) -> None:
        sequence = tokens(CONTEXT, seed=4)
        pair.decoder.prefill(ids(sequence[:-3]))
        assert_same(pair.decoder.step(ids(sequence[-3:]), CONTEXT - 3), pair.logits(sequence)[-3:])

    def test_greedy_decoding_gives_the_ids_of_generate(self, pair: Pair) -> None:
        new = 8
        prompt = torch.tensor([PROMPT])
        expected = pair.oracle.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, do_sample=False
        )
        emitted = [int(pair.decoder.prefill(ids(PROMPT)).argmax())]
        while len(emitted) < new:
            base = len(PROMPT) + len(emitted) - 1
            emitted.append(int(pair.decoder.step(ids(emitted[-1:]), base).argmax()))
        assert emitted == expected[0, len(PROMPT) :].tolist()


class TestLayerRanges:
    """Layers may be run in parts, and shallow ones may run ahead."""

    @pytest.mark.parametrize("cut", [0, 1, 2, 3])
    def test_two_ranges_equal_one(self, pair: Pair, cut: int) -> None:
        decoder = pair.decoder
        decoder.cache.truncate(0)
        rows = decoder.placement.chain(0, len(PROMPT))
        shallow = decoder.run_layers(decoder.embed(ids(PROMPT)), rows, 0, cut)
        assert_same(decoder.head(decoder.run_layers(shallow, rows, cut)), pair.logits(PROMPT))

    @pytest.mark.parametrize("cut", [1, 2])
    def test_drafting_shallow_then_verifying_the_deep_layers_at_once(self, pair: Pair, cut: int) -> None:
        decoder, base = pair.decoder, len(PROMPT)
        decoder.prefill(ids(PROMPT))
        drafted = []
        for i, token in enumerate(MORE):
            rows = decoder.placement.chain(base + i, 1)
            drafted.append(decoder.run_layers(decoder.embed(ids([token])), rows, 0, cut))
        verify = decoder.placement.chain(base, len(MORE))
        got = decoder.head(decoder.run_layers(torch.cat(drafted), verify, cut))
        assert_same(got, pair.logits(PROMPT + MORE)[base:])

    def test_taps_hold_the_rows_entering_each_layer(self, pair: Pair) -> None:
        decoder = pair.decoder
        taps = {layer: torch.empty(0) for layer in range(decoder.depth + 1)}
        decoder.prefill(ids(PROMPT), taps)
        with torch.no_grad():
            hidden = pair.oracle(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states
        for layer in range(decoder.depth):
            assert_same(taps[layer], hidden[layer][0])
        normed = pair.oracle.model.norm(taps[decoder.depth])
        assert_same(normed, hidden[decoder.depth][0])  # transformers gives its last state normed

    def test_taps_outside_the_range_are_left_alone(self, llama: Pair) -> None:
        decoder = llama.decoder
        decoder.cache.truncate(0)
        untouched = torch.empty(0)
        taps = {0: untouched, 1: untouched, 2: untouched, 3: untouched}
        embedded = decoder.embed(ids(PROMPT))
        rows = decoder.placement.chain(0, len(PROMPT))
        decoder.run_layers(embedded, rows, 0, 1)
        decoder.run_layers(embedded, rows, 1, 2, taps=taps)
        assert [taps[layer] is untouched for layer in range(4)] == [True, False, False, True]
        assert taps[1] is embedded

    def test_rows_are_never_changed_in_place(self, pair: Pair) -> None:
        decoder = pair.decoder
        decoder.cache.truncate(0)
        embedded = decoder.embed(ids(PROMPT))
        before = embedded.clone()
        decoder.run_layers(embedded, decoder.placement.chain(0, len(PROMPT)))
        assert torch.equal(embedded, before)


class TestTrees:
    """A tree pass verifies every path at once; an accepted one is compacted in the cache."""

    def run_tree(self, pair: Pair) -> Tensor:
        decoder = pair.decoder
        decoder.prefill(ids(PROMPT))
        rows = decoder.placement.tree(len(PROMPT), *tree_shape())
        return decoder.head(decoder.run_layers(decoder.embed(ids(TREE_TOKENS)), rows))

    def test_every_node_sees_its_own_path_only(self, pair: Pair) -> None:
        got = self.run_tree(pair)
        for node in range(len(TREE_PARENTS)):
            path = [TREE_TOKENS[i] for i in path_to(node)]
            assert_same(got[node], pair.logits(PROMPT + path)[-1])

    def test_decoding_goes_on_after_any_kept_path(self, pair: Pair) -> None:
        for node in range(len(TREE_PARENTS)):
            self.run_tree(pair)
            path = path_to(node)
            pair.decoder.cache.keep(len(PROMPT), ids(path))
            assert pair.decoder.cache.length == len(PROMPT) + len(path)
            sequence = PROMPT + [TREE_TOKENS[i] for i in path] + MORE
            got = pair.decoder.step(ids(MORE), len(PROMPT) + len(path))
            assert_same(got, pair.logits(sequence)[-len(MORE) :])

    def test_a_tree_of_one_path_equals_a_chain(self, pair: Pair) -> None:
        decoder = pair.decoder
        decoder.prefill(ids(PROMPT))
        sees = torch.ones(len(MORE), len(MORE)).tril().bool()
        rows = decoder.placement.tree(len(PROMPT), torch.arange(len(MORE)), sees)
        got = decoder.head(decoder.run_layers(decoder.embed(ids(MORE)), rows))
        assert_same(got, pair.logits(PROMPT + MORE)[len(PROMPT) :])


class TestReadOnlyRows:
    """Rows that read but never write equal queries appended to the sequence that nothing sees."""

    def expected(self, pair: Pair, sequence: list[int], extra: int, position: int, seen: int) -> Tensor:
        """The oracle's logits of `extra` at `position`, seeing the first `seen` tokens of `sequence`."""
        total = len(sequence) + 1
        places = torch.tensor([*range(len(sequence)), position])
        visible = torch.ones(total, total).tril().bool()
        visible[-1] = torch.arange(total) < seen

        def mask(window: int | None) -> Tensor:
            near = places[None, :] > places[:, None] - (CONTEXT if window is None else window)
            hidden = torch.finfo(torch.float32).min
            return torch.zeros(total, total).masked_fill(~(visible & near), hidden)[None, None]

        config = pair.decoder.config
        masks: Any = mask(config.window)
        if config.alternate is not None and config.alternate.window != config.window:
            masks = {"full_attention": masks, "sliding_attention": mask(config.alternate.window)}
        return oracle_logits(
            pair.oracle, [*sequence, extra], attention_mask=masks, position_ids=places[None]
        )[-1]

    def test_rows_after_written_ones(self, pair: Pair) -> None:
        decoder, base, written = pair.decoder, len(PROMPT), MORE[:3]
        readers = [(MORE[3], 1, 1), (MORE[4], 3, 3), (MORE[5], 4, 3)]  # token, depth, written rows it sees
        decoder.prefill(ids(PROMPT))
        depths = torch.tensor([0, 1, 2, *(depth for _, depth, _ in readers)])
        sees = torch.ones(3, 3).tril().bool()
        sees = torch.cat([sees, *(torch.arange(3)[None] < seen for _, _, seen in readers)])
        rows = decoder.placement.tree(base, depths, sees, writes=3)
        got = decoder.head(decoder.run_layers(decoder.embed(ids(MORE)), rows))
        assert_same(got[:3], pair.logits(PROMPT + written)[base:])
        for row, (token, depth, seen) in enumerate(readers, start=3):
            expected = self.expected(pair, PROMPT + written, token, base + depth, base + seen)
            assert_same(got[row], expected)
        assert decoder.cache.length == base + 3

    def test_rows_that_write_nothing_at_all(self, pair: Pair) -> None:
        decoder, base = pair.decoder, len(PROMPT)
        decoder.prefill(ids(PROMPT))
        rows = decoder.placement.tree(
            base, torch.tensor([0, 2]), torch.zeros(2, 0, dtype=torch.bool), writes=0
        )
        got = decoder.head(decoder.run_layers(decoder.embed(ids(MORE[:2])), rows))
        assert_same(got[0], self.expected(pair, PROMPT, MORE[0], base, base))
        assert_same(got[1], self.expected(pair, PROMPT, MORE[1], base + 2, base))
        assert decoder.cache.length == base


class TestSkippedSubLayers:
    """A skipped sub-layer adds nothing: the oracle with its output projection at zero."""

    SKIPS: ClassVar = {
        "attention": Skip(attention=frozenset({1})),
        "mlp": Skip(mlp=frozenset({0, 2})),
        "both": Skip(attention=frozenset({0}), mlp=frozenset({0, 1})),
        "everything": Skip(attention=frozenset(range(3)), mlp=frozenset(range(3))),
    }

    @pytest.mark.parametrize("skip", SKIPS.values(), ids=SKIPS.keys())
    def test_equals_an_oracle_with_zeroed_outputs(self, pair: Pair, skip: Skip) -> None:
        decoder = pair.decoder
        decoder.cache.truncate(0)
        embedded = decoder.embed(ids(PROMPT))
        got = decoder.head(decoder.run_layers(embedded, decoder.placement.chain(0, len(PROMPT)), skip=skip))
        with zeroed_outputs(pair.oracle, skip):
            assert_same(got, oracle_logits(pair.oracle, PROMPT))
        written = [0 if layer in skip.attention else len(PROMPT) for layer in range(3)]
        assert decoder.cache.lengths == written

    def test_a_full_pass_mends_the_cache_after_a_skipping_draft(self, pair: Pair) -> None:
        decoder, base = pair.decoder, len(PROMPT)
        decoder.prefill(ids(PROMPT))
        for i, token in enumerate(MORE):
            rows = decoder.placement.chain(base + i, 1)
            decoder.run_layers(decoder.embed(ids([token])), rows, skip=self.SKIPS["both"])
        assert_same(decoder.step(ids(MORE), base), pair.logits(PROMPT + MORE)[base:])


@contextmanager
def zeroed_outputs(oracle: Any, skip: Skip) -> Iterator[None]:
    """Inside, the last projections of some sub-layers of the oracle give zeros."""
    layers = oracle.model.layers
    outputs = [layers[index].self_attn.o_proj for index in skip.attention]
    outputs += [layers[index].mlp.down_proj for index in skip.mlp]
    hooks = [output.register_forward_hook(lambda *passed: torch.zeros_like(passed[-1])) for output in outputs]
    yield
    for hook in hooks:
        hook.remove()


def mlp_of(layer: Layer) -> Mlp:
    assert layer.mlp is not None
    return layer.mlp


def projections(layer: Layer) -> dict[Projection, Linear]:
    mlp = mlp_of(layer)
    return {"qkv": layer.attention.qkv, "o": layer.attention.o, "gate_up": mlp.gate_up, "down": mlp.down}


class LowRank:
    """Adds a product of rank 2, one per layer and projection, to the rows from `row` on."""

    def __init__(self, decoder: Decoder, row: int, scale: float) -> None:
        generator = torch.Generator().manual_seed(5)
        self.row = row
        self.changes: dict[tuple[int, Projection], Tensor] = {}  # [O, I]
        for index, layer in enumerate(decoder.layers):
            for name, linear in projections(layer).items():
                outputs, inputs = linear.weight.shape
                up = torch.randn(outputs, 2, generator=generator)
                down = torch.randn(2, inputs, generator=generator)
                self.changes[index, name] = scale * up @ down

    def add(self, layer: int, projection: Projection, inputs: Tensor, outputs: Tensor) -> None:
        outputs[self.row :] += inputs[self.row :] @ self.changes[layer, projection].t()


class TestDelta:
    """A delta changes the projections of its rows, and of no other."""

    def run(self, static: Pair, delta: LowRank | None) -> Tensor:
        decoder = static.decoder
        decoder.prefill(ids(PROMPT))
        rows = decoder.placement.chain(len(PROMPT), 3)
        return decoder.head(decoder.run_layers(decoder.embed(ids(MORE[:3])), rows, delta=delta))

    def test_zero_delta_is_bit_equal_to_none(self, static: Pair) -> None:
        assert torch.equal(self.run(static, LowRank(static.decoder, 0, 0.0)), self.run(static, None))

    def test_rows_without_delta_are_bit_equal_to_the_model(self, static: Pair) -> None:
        got, expected = self.run(static, LowRank(static.decoder, 2, 0.1)), self.run(static, None)
        assert torch.equal(got[:2], expected[:2])
        assert float((got[2] - expected[2]).abs().max()) > 0.01

    def test_rows_with_delta_equal_a_model_of_changed_weights(self, static: Pair) -> None:
        decoder = static.decoder
        delta = LowRank(decoder, 2, 0.1)
        got = self.run(static, delta)
        decoder.prefill(ids(PROMPT + MORE[:2]))
        original = list(decoder.layers)
        for index, layer in enumerate(original):
            changed = {
                name: Linear(old.weight + delta.changes[index, name], old.bias)
                for name, old in projections(layer).items()
            }
            decoder.layers[index] = Layer(
                replace(layer.attention, qkv=changed["qkv"], o=changed["o"]),
                replace(mlp_of(layer), gate_up=changed["gate_up"], down=changed["down"]),
            )
        expected = decoder.step(ids(MORE[2:3]), len(PROMPT) + 2)
        decoder.layers[:] = original
        assert_same(got[2:], expected)


class TestLimits:
    """What does not fit is refused before anything is computed from it."""

    def test_a_prompt_longer_than_the_cache(self, llama: Pair) -> None:
        with pytest.raises(UserError, match="needs 49 positions, the cache holds 48") as caught:
            llama.decoder.prefill(ids(tokens(49)))
        assert "runtime.max_length" in caught.value.fix

    def test_a_gap_after_the_valid_slots(self, llama: Pair) -> None:
        llama.decoder.prefill(ids(PROMPT))
        with pytest.raises(RuntimeError, match="after 13 valid ones"):
            llama.decoder.step(ids(MORE[:1]), len(PROMPT) + 1)

    def test_rows_forgotten_are_not_read(self, llama: Pair) -> None:
        llama.decoder.prefill(ids(PROMPT))
        llama.decoder.cache.truncate(5)
        with pytest.raises(RuntimeError, match="after 5 valid ones"):
            llama.decoder.step(ids(MORE[:1]), len(PROMPT))

    def test_a_layer_that_lags_is_not_read(self, llama: Pair) -> None:
        decoder = llama.decoder
        decoder.prefill(ids(PROMPT))
        rows = decoder.placement.chain(len(PROMPT), 1)
        decoder.run_layers(decoder.embed(ids(MORE[:1])), rows, 0, 1)
        with pytest.raises(RuntimeError, match="layer 1"):
            decoder.step(ids(MORE[1:2]), len(PROMPT) + 1)


@pytest.mark.parametrize("name", ["llama-mha", "qwen2-biases", "gemma-tied-wide-heads", "phi3-fused"])
def test_prepacked_products_give_the_same_logits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.runtime.linear, "PACKED_SIZE", 1)
    packed = tiny_pair(CONFIGS[name], tmp_path)
    packed.decoder.prefill(ids(PROMPT))
    got = packed.decoder.step(ids(MORE), len(PROMPT))
    assert_same(got, packed.logits(PROMPT + MORE)[len(PROMPT) :])
