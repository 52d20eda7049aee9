"""The graph tier on a recorder that needs no GPU: same ids, right buckets, nothing baked in, nothing late."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.errors import UserError
from bench.runtime.decoder import Decoder, Skip
from bench.runtime.loading import RuntimeOptions, build_decoder
from bench.runtime.sampling import Sampling
from bench.runtime.tier_choice import choose_tier
from bench.runtime.tiers.eager import EagerDecoder
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.runtime.tiers.graph.sizes import MOST_ROWS, ROW_SIZES, column_size, column_sizes, row_size
from bench.runtime.tiers.graph.spans import MOST_SPANS
from methods.core.autoregressive import Autoregressive
from methods.core.trees import Tree
from tests.methods.small import CPU, prompt, random_decoder, run
from tests.runtime.models import AUTO, CONFIGS, CONTEXT, options, tiny_model, tokens
from tests.runtime.tape import taped
from tests.runtime.tiny import built, tiny

pytestmark = pytest.mark.usefixtures("torch_products")
METHODS = [
    "autoregressive",
    "layerskip",
    "del",
    "kangaroo",
    "kangaroo_tree",
    "medusa",
    "hidden_transfer",
    "hamburger_verified",
    "m2r2",
]
NEW = 12
TWO_KINDS = ["gemma3-local-and-global", "smollm3-one-layer-still"]
"""Models whose layers place rows in two ways."""
TREE = Tree.of_paths([(0,), (1,), (0, 0), (0, 1), (0, 0, 0)])


def model(name: str) -> Any:
    made = tiny_model(CONFIGS[name])
    made.config.architectures = [type(made).__name__]
    return made


def pair(name: str) -> tuple[Decoder, GraphDecoder]:
    """A tiny random model, as it is and on tapes."""
    made = model(name)
    tensors = {key: value.clone() for key, value in made.state_dict().items()}
    decoder = build_decoder(made.config, tensors, options())
    return decoder, taped(decoder)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_decodes_the_same_ids_on_graphs(name: str) -> None:
    decoder, ids = tiny()
    graphed = taped(decoder)
    expected, got = run(built(name, decoder), ids, new=NEW), run(built(name, graphed), ids, new=NEW)
    assert got.ids == expected.ids
    assert got.rounds == expected.rounds
    assert graphed.tally.replayed > 0


@pytest.mark.parametrize("name", ["kangaroo", "medusa"])
def test_drafts_of_frequent_tokens_are_the_same_too(name: str) -> None:
    decoder, ids = tiny()
    few, sampling = "method.draft_vocab=256", Sampling(temperature=0.8)
    expected = run(built(name, decoder, few), ids, new=NEW, sampling=sampling)
    assert run(built(name, taped(decoder), few), ids, new=NEW, sampling=sampling) == expected


def test_sampled_ids_are_the_same_too() -> None:
    decoder, ids = tiny()
    sampling = Sampling(temperature=0.8)
    expected = run(built("layerskip", decoder), ids, new=NEW, sampling=sampling)
    assert run(built("layerskip", taped(decoder)), ids, new=NEW, sampling=sampling) == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_steps_and_trees_of_every_family_are_those_of_the_static_tier(name: str) -> None:
    static, graphed = pair(name)
    ids = torch.tensor(tokens(20))
    for decoder in (static, graphed):
        decoder.prefill(ids[:9])
    for base, count in ((9, 1), (10, 4), (14, 1)):
        expected = static.step(ids[base : base + count], base)
        torch.testing.assert_close(graphed.step(ids[base : base + count], base), expected)
    logits = []
    for decoder in (static, graphed):
        place = decoder.placement.tree(15, TREE.offsets, TREE.sees)
        logits.append(decoder.head(decoder.run_layers(decoder.embed(ids[: TREE.size]), place)))
        decoder.cache.keep(15, torch.tensor([0, 1, 3]))
        logits.append(decoder.step(ids[:2], 18))
    torch.testing.assert_close(logits[2:], logits[:2])
    assert graphed.cache.lengths == static.cache.lengths


@pytest.mark.parametrize("name", CONFIGS)
def test_the_eager_tier_computes_what_the_static_one_does(name: str) -> None:
    made = model(name)
    results = []
    for tier in ("static", "eager"):
        tensors = {key: value.clone() for key, value in made.state_dict().items()}
        decoder = build_decoder(made.config, tensors, RuntimeOptions(CPU, torch.float32, CONTEXT, tier))
        ids = torch.tensor(tokens(20))
        logits = [decoder.prefill(ids[:9]), decoder.step(ids[9:10], 9), decoder.step(ids[10:14], 10)]
        place = decoder.placement.tree(14, TREE.offsets, TREE.sees)
        logits.append(decoder.head(decoder.run_layers(decoder.embed(ids[: TREE.size]), place)))
        results.append(logits)
    assert type(decoder) is EagerDecoder
    torch.testing.assert_close(results[1], results[0], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["mistral-no-window", *TWO_KINDS])
def test_rows_that_read_only_and_positions_apart_from_slots(name: str) -> None:
    static, graphed = pair(name)
    hidden = torch.randn(5, static.config.width, generator=torch.Generator().manual_seed(0))
    results = []
    for decoder in (static, graphed):
        decoder.prefill(torch.tensor(tokens(9)))
        readers = decoder.placement.tree(9, torch.tensor([0, 1, 1, 2, 2]), torch.ones(5, 3).bool(), writes=3)
        out = [decoder.run_layers(hidden, readers)]
        out.append(decoder.run_layers(hidden[:1], decoder.placement.single(12, 20)))
        results.append(out)
    torch.testing.assert_close(results[1], results[0])
    assert graphed.cache.lengths == static.cache.lengths == [13] * static.depth


def test_taps_hold_the_rows_of_this_pass_and_keep_them() -> None:
    static, graphed = pair("qwen3-qk-norm")
    ids = torch.tensor(tokens(20))
    results = []
    for decoder in (static, graphed):
        decoder.prefill(ids[:9])
        taps = dict.fromkeys(range(1, decoder.depth + 1), decoder.embedding)
        hidden = decoder.run_layers(decoder.embed(ids[9:11]), decoder.placement.chain(9, 2), 0, 1)
        decoder.run_layers(hidden, decoder.placement.chain(9, 2), 1, taps=taps)
        decoder.step(ids[11:13], 11)  # must not change them
        assert taps[1] is hidden
        results.append(list(taps.values()))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("name", ["llama-mha", *TWO_KINDS])
def test_a_skipped_sublayer_is_left_out_and_needs_no_recording_of_its_set(name: str) -> None:
    static, graphed = pair(name)
    ids = torch.tensor(tokens(20))
    sets = [Skip(frozenset([1]), frozenset([0])), Skip(frozenset([0, 2])), Skip(mlp=frozenset([2]))]
    for skip in sets:
        results = []
        for decoder in (static, graphed):
            decoder.prefill(ids[:9])
            taps = {2: decoder.embedding}
            rows = decoder.embed(ids[9:10])
            results.append([decoder.run_layers(rows, decoder.placement.chain(9, 1), skip=skip, taps=taps)])
            results[-1] += [taps[2], torch.tensor(decoder.cache.lengths)]
        torch.testing.assert_close(results[1], results[0])
    assert graphed.tally.recorded == 2 * static.depth


@pytest.mark.parametrize("name", ["llama-mha", *TWO_KINDS])
def test_a_set_of_skipped_sublayers_that_stays_is_recorded_whole(name: str) -> None:
    static, graphed = pair(name)
    skip, ids = Skip(frozenset([1]), frozenset([0])), torch.tensor(tokens(20))
    results = []
    for decoder in (static, graphed):
        decoder.prefill(ids[:9])
        for base in range(9, 16):
            place = decoder.placement.chain(base, 1)
            hidden = decoder.run_layers(decoder.embed(ids[base : base + 1]), place, skip=skip)
        results.append(hidden)
    torch.testing.assert_close(results[1], results[0])
    whole = [bucket for bucket in graphed._recordings if bucket.part == "layers"]
    assert [bucket.span.skip for bucket in whole] == [skip]


def test_preparing_keeps_the_ranges_that_were_used_most() -> None:
    graphed = taped(random_decoder(tier="static"))
    graphed.prefill(prompt())
    ranges = [(start, stop) for start in range(4) for stop in range(start + 1, graphed.depth)]
    for uses, (start, stop) in enumerate(ranges):
        for _ in range(1 + uses):
            graphed.cache.truncate(12)
            graphed.run_layers(graphed.embed(prompt(2)), graphed.placement.chain(12, 2), start, stop)
    assert len(ranges) > MOST_SPANS
    graphed.prepare(100)
    whole = {bucket.span[:2] for bucket in graphed._recordings if bucket.part == "layers"}
    assert whole == set(ranges[-MOST_SPANS:])


@pytest.mark.parametrize("family", ["gemma3", "smollm3"])
@pytest.mark.parametrize("method", ["layerskip", "token_recycling"])
def test_chains_and_trees_of_layers_of_two_kinds_give_the_same_ids(method: str, family: str) -> None:
    decoder = random_decoder(family, tier="static")
    graphed = taped(decoder)
    exit_layer = ["method.exit_layer=3"] if method == "layerskip" else []
    expected = run(built(method, decoder, *exit_layer), prompt(9), new=NEW)
    assert run(built(method, graphed, *exit_layer), prompt(9), new=NEW) == expected
    assert graphed.tally.replayed > 0


def test_low_rank_changes_are_recorded_whole() -> None:
    decoder, ids = tiny()
    graphed = taped(decoder)
    assert run(built("m2r2", graphed), ids, new=NEW) == run(built("m2r2", decoder), ids, new=NEW)
    assert graphed.tally.delta == 0
    assert any(bucket.span.delta is not None for bucket in graphed._recordings)


def test_micro_steps_are_recorded_from_their_first_pass_on() -> None:
    decoder, ids = tiny()
    graphed = taped(decoder)
    run(built("hamburger_verified", graphed), ids, new=NEW)
    assert graphed.tally.prefill == 1, "the prompt alone"


def test_a_prepared_draft_step_is_not_recorded_again() -> None:
    graphed = taped(tiny()[0])
    method = built("kangaroo", graphed)
    run(method, tiny()[1], new=NEW)
    graphed.prepare(200)
    recorded = graphed.tally.recorded
    expected = run(built("kangaroo", tiny()[0]), tiny()[1], new=3 * NEW)
    assert run(method, tiny()[1], new=3 * NEW).ids == expected.ids
    assert graphed.tally.recorded == recorded


def test_steps_of_one_number_of_rows_share_their_logits() -> None:
    graphed = taped(random_decoder(tier="static"))
    graphed.prefill(prompt(120))
    for base in (100, 120):  # another number of columns
        graphed.step(prompt(20), base)
    outputs = [recording.outputs[0] for recording in graphed._recordings.values()]
    assert len(outputs) == 2
    assert outputs[0] is outputs[1]


def test_many_ranges_are_replayed_by_sublayer() -> None:
    static, graphed = random_decoder(tier="static"), taped(random_decoder(tier="static"))
    ids = prompt()
    ranges = [(0, stop) for stop in range(1, static.depth)] + [(start, static.depth) for start in range(4)]
    assert len(ranges) > MOST_SPANS
    static.prefill(ids)
    graphed.prefill(ids)
    for start, stop in ranges:
        place = static.placement.chain(12, 2)
        for decoder in (static, graphed):
            decoder.cache.truncate(12)
        rows = static.embed(ids[:2])
        torch.testing.assert_close(
            graphed.run_layers(rows, place, start, stop), static.run_layers(rows, place, start, stop)
        )
    whole = {bucket for bucket in graphed._recordings if bucket.part == "layers"}
    assert len(whole) == MOST_SPANS


def test_a_prepared_decoder_records_nothing_more() -> None:
    graphed = taped(random_decoder(tier="static"))
    method = Autoregressive()
    method.attach(graphed)
    run(method, prompt(), new=4)
    graphed.step(prompt(3), 12)
    assert graphed.tally.recorded == 2
    graphed.prepare(200)
    assert graphed.tally.recorded == 3 * len(column_sizes(200, 256)) == 9  # 1, 2 and 3 rows
    run(method, prompt(150), new=40)
    assert graphed.tally.recorded == 9
    graphed.step(prompt(5), 20)
    assert graphed.tally.recorded == 10


def test_a_companion_is_prepared_along() -> None:
    graphed = taped(random_decoder(tier="static"))
    companion = graphed.companion(graphed.layers[:1], graphed.final_norm, capacity=20)
    assert isinstance(companion, GraphDecoder)
    companion.step(prompt(1), 0)
    graphed.prepare(200)
    assert graphed.tally is companion.tally
    assert (graphed.tally.recorded, companion.cache.length) == (1, 0)
    companion.step(prompt(1), 0)
    companion.step(prompt(2), 1)
    assert graphed.tally.recorded == 2
    assert companion.capacity == 20


def test_padding_rows_touch_no_slot_that_is_read() -> None:
    graphed = taped(random_decoder(tier="static"))
    graphed.prefill(prompt())
    before = [store.clone() for store in graphed.cache._stores]
    graphed.step(prompt(9), 12)  # the bucket has 10 rows
    for old, new in zip(before, graphed.cache._stores, strict=True):
        changed = (old != new).any(dim=-1).any(dim=1).any(dim=0).nonzero()[:, 0].tolist()
        assert changed == [*range(12, 21), graphed.cache.capacity]


@pytest.mark.parametrize("left_by", ["an earlier prompt", "a rejected draft", "a layer that is skipped next"])
def test_rows_that_are_not_finite_do_not_outlive_their_slots(left_by: str) -> None:
    """Zero, the weight of a hidden slot, times NaN is NaN."""
    static, graphed = random_decoder(tier="static"), taped(random_decoder(tier="static"))
    ids, results = prompt(100), []
    for decoder in (static, graphed):
        broken = torch.full((3, decoder.config.width), float("nan"))
        if left_by == "an earlier prompt":
            decoder.prefill(ids)
            decoder.run_layers(broken, decoder.placement.chain(60, 3))
        decoder.prefill(ids[:20])
        if left_by == "a rejected draft":
            decoder.run_layers(broken, decoder.placement.chain(20, 3))
        results.append([decoder.step(ids[20:21], 20)])
        if left_by == "a layer that is skipped next":
            decoder.run_layers(broken, decoder.placement.chain(21, 3))
            skip = Skip(frozenset([1, 3]))
            decoder.cache.truncate(21)
            decoder.run_layers(decoder.embed(ids[21:22]), decoder.placement.chain(21, 1), skip=skip)
            decoder.cache.truncate(21)
        results[-1] += [decoder.step(ids[21:22], 21), decoder.step(ids[22:26], 22)]
    assert all(logits.isfinite().all() for logits in results[1])
    torch.testing.assert_close(results[1], results[0])


def test_what_recording_writes_does_not_outlive_it() -> None:
    graphed, ids = taped(random_decoder(tier="static")), prompt(100)
    graphed.prefill(ids)
    graphed.run_layers(torch.full((3, graphed.config.width), float("nan")), graphed.placement.chain(100, 3))
    graphed.prefill(ids[:20])
    expected = graphed.step(ids[20:21], 20)  # the three slots are cleared now
    graphed.prepare(200)  # and written again
    graphed.prefill(ids[:20])
    assert torch.equal(graphed.step(ids[20:21], 20), expected)
    assert expected.isfinite().all()


def test_the_last_slot_can_be_written() -> None:
    static, graphed = random_decoder(tier="static"), taped(random_decoder(tier="static"))
    ids = prompt(256)
    static.prefill(ids[:246])
    graphed.prefill(ids[:246])
    torch.testing.assert_close(graphed.step(ids[246:255], 246), static.step(ids[246:255], 246))
    torch.testing.assert_close(graphed.step(ids[255:], 255), static.step(ids[255:], 255))
    with pytest.raises(UserError, match="needs 257 positions"):
        graphed.step(ids[:1], 256)


def test_a_gap_in_the_cache_is_refused_as_on_the_static_tier() -> None:
    graphed = taped(random_decoder(tier="static"))
    graphed.prefill(prompt())
    with pytest.raises(RuntimeError, match="after 12 valid ones"):
        graphed.step(prompt(1), 14)


def test_passes_that_are_not_recorded_are_counted() -> None:
    graphed = taped(random_decoder(tier="static"))
    ids = prompt(200)
    graphed.prefill(ids[:20])
    graphed.step(ids[: MOST_ROWS + 1], 20)
    assert (graphed.tally.prefill, graphed.tally.long, graphed.tally.replayed) == (1, 1, 0)


def test_buckets_round_up_and_never_past_the_capacity() -> None:
    assert [row_size(count) for count in (1, 8, 9, MOST_ROWS)] == [1, 8, 10, MOST_ROWS]
    assert [column_size(end, 500) for end in (1, 128, 129, 257, 400)] == [128, 128, 192, 384, 500]
    assert column_sizes(300, 500) == [128, 192, 256, 384]
    assert column_sizes(500, 500) == [128, 192, 256, 384, 500]
    assert list(ROW_SIZES) == sorted(ROW_SIZES)


@pytest.mark.parametrize(
    ("name", "device", "tier"),
    [
        ("auto", "cpu", AUTO),
        ("auto", "cuda", "graph"),
        ("eager", "cpu", "eager"),
        ("static", "cuda", "static"),
        ("graph", "cuda", "graph"),
    ],
)
def test_auto_takes_the_fastest_tier_of_the_device(name: str, device: str, tier: str) -> None:
    assert choose_tier(name, torch.device(device)) == tier


def test_graphs_without_a_gpu_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        choose_tier("graph", CPU)
    assert caught.value.what == "runtime.tier=graph replays CUDA graphs, and this run is on the CPU"
    assert caught.value.fix == "use runtime.tier=auto, the fastest there, or runtime.device=cuda"
