"""Hidden transfer: who sees whom, what may reach the cache, and that training computes what decoding runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, MistralConfig

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions, build_decoder
from bench.runtime.modules import save_module
from bench.runtime.sampling import Sampler, Sampling
from bench.train.modules import observe
from methods.autoregressive import Autoregressive
from methods.base import Budget
from methods.hidden_transfer import DEFAULT_TREE, HiddenTransfer
from methods.pseudo_rows import Projections, Transfer, pseudo_rows
from methods.tree import Calibratable, TreeDraft
from methods.trees import Tree
from tests.methods.small import CPU, FAMILIES, SHAPE, SilentClock, prompt, random_decoder, run

WIDTH, DEPTH = SHAPE["hidden_size"], SHAPE["num_hidden_layers"]
SMALL_TREE = {"": 3, "0": 2, "1": 1, "00": 2}
TRANSFERS = {
    "all at one layer": Transfer((3, 3, 3)),
    "staircase": Transfer((1, 3, 4)),
    "from the embeddings": Transfer((0, 0, 0)),
    "behind the last layer": Transfer((6, 6, 6)),
    "mixed to the end": Transfer((2, 6, 6)),
    "chained": Transfer((2, 3, 3), source="chain"),
    "steps isolated": Transfer((2, 2, 4), isolate=True),
}
WINDOWED = {**FAMILIES, "mistral": MistralConfig(**SHAPE, sliding_window=7)}
EVERY_TRANSFER = pytest.mark.parametrize("transfer", TRANSFERS.values(), ids=TRANSFERS)


def unattached(tree: Any = None, **changes: Any) -> HiddenTransfer:
    settings: dict[str, Any] = {
        "weights": None,
        "steps": None,
        "enter": None,
        "stride": None,
        "source": "real",
    }
    settings |= {"isolate": False, "tree": tree, "two_phase": False, "anchors": 64, **changes}
    return HiddenTransfer(**settings)


def random_projections(decoder: Decoder, transfer: Transfer) -> Tensor:
    torch.manual_seed(1)
    return Projections(len(transfer.layers), WIDTH).projections.detach().to(decoder.dtype)


def bound(
    decoder: Decoder, transfer: Transfer, tree: dict[str, int] | None = None, *, two_phase: bool = False
) -> HiddenTransfer:
    """The method with random projections: it accepts next to nothing."""
    method = unattached(two_phase=two_phase)
    method.use(
        decoder, random_projections(decoder, transfer), transfer, Tree.of_child_counts(tree or SMALL_TREE)
    )
    return method


def saved(
    decoder: Decoder, folder: Path, tree: dict[str, int] | None = None, **changes: Any
) -> HiddenTransfer:
    """The same through weights on disk."""
    method = unattached(tree)
    torch.manual_seed(1)
    save_module(folder, method.new_module(decoder).state_dict(), method.provenance(decoder))
    return unattached(tree, weights=str(folder), **changes)


def built(config: Any, dtype: torch.dtype = torch.float32) -> Decoder:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.config.architectures = [type(model).__name__]
    tensors = {name: value.to(dtype, copy=True) for name, value in model.state_dict().items()}
    return build_decoder(model.config, tensors, RuntimeOptions(CPU, dtype, 256))


def own_ids(decoder: Decoder, ids: Tensor, new: int = 40) -> tuple[int, ...]:
    baseline = Autoregressive()
    baseline.attach(decoder)
    return run(baseline, ids, new=new).ids


# -- visibility ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolate", [False, True], ids=["sees earlier steps", "steps isolated"])
def test_visibility_has_the_block_form(isolate: bool) -> None:
    tree = Tree.of_child_counts(SMALL_TREE)
    method = bound(random_decoder(), Transfer((3, 3, 3), isolate=isolate), SMALL_TREE)
    offsets, sees = method._layout(tree)
    n = tree.size
    block = sees.view(4, n, 4, n).transpose(1, 2)  # step of the row, step of the column, row, column
    for row in range(4):
        assert torch.equal(block[row, 0], tree.sees)
        for column in range(1, 4):
            is_seen = column == row or (column < row and not isolate)
            assert torch.equal(block[row, column], torch.eye(n).bool() & is_seen)
    assert offsets.tolist() == [depth + step for step in range(4) for depth in tree.depths]


def test_each_pseudo_row_sees_its_path_and_its_own_earlier_steps() -> None:
    tree = Tree.of_child_counts(DEFAULT_TREE)
    _, sees = bound(random_decoder(), Transfer((3, 3, 3)), DEFAULT_TREE)._layout(tree)
    for row, seen in enumerate(sees.sum(dim=1).tolist()):
        step, node = divmod(row, tree.size)
        assert seen == tree.depths[node] + 1 + step


def test_the_uncalibrated_tree_is_that_of_the_notes() -> None:
    tree = Tree.of_child_counts(DEFAULT_TREE)
    assert (tree.size, tree.depth, tree.width) == (26, 3, 8)
    assert [tree.depths.count(depth) for depth in (1, 2, 3)] == [8, 11, 6]


@EVERY_TRANSFER
def test_real_rows_do_not_notice_pseudo_rows(transfer: Transfer) -> None:
    decoder = built(FAMILIES["llama"], torch.float64)
    method = bound(decoder, transfer, SMALL_TREE)
    with torch.inference_mode():
        method.prefill(prompt(12))
        draft = method.draft(torch.tensor([5]), 12, 9, 99, Sampler(Sampling(), CPU, 0))
        beside = method.verify(draft, 12)
        caches = [
            [part[:, 12 : 12 + draft.tree.size].clone() for part in store] for store in decoder.cache._stores
        ]
        decoder.cache.truncate(12)
        place = decoder.placement.tree(12, draft.tree.offsets, draft.tree.sees)
        alone = decoder.head(decoder.run_layers(decoder.embed(draft.tokens), place))
    torch.testing.assert_close(beside, alone, atol=1e-10, rtol=0)
    for store, (keys, values) in zip(decoder.cache._stores, caches, strict=True):
        torch.testing.assert_close(store[0][:, 12 : 12 + draft.tree.size], keys, atol=1e-10, rtol=0)
        torch.testing.assert_close(store[1][:, 12 : 12 + draft.tree.size], values, atol=1e-10, rtol=0)


# -- the cache -------------------------------------------------------------------------------------------


class Watched(HiddenTransfer):
    """Notes a copy of the committed cache behind every round; drafts the given future where there is one."""

    future: tuple[int, ...] = ()

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self.prompt = prompt_ids.numel()
        self.caches: list[list[Tensor]] = []
        return super().prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        draft = super().draft(root, base, room, slots, sampler)
        known = base - self.prompt + 1
        right = zip(draft.tree.depths[1:], draft.tree.ranks[1:], strict=True)
        tokens = (
            [(self.future[known + depth - 1] + rank) % 96 for depth, rank in right] if self.future else None
        )
        if tokens is None:
            return draft
        return TreeDraft(draft.tree, torch.cat([root, torch.tensor(tokens, dtype=torch.int64)]), draft.stop)

    def commit(self, path: tuple[int, ...], base: int) -> None:
        super().commit(path, base)
        end = self._decoder.cache.length  # all layers agree
        assert end == base + len(path)
        self.caches.append([store[:, :, :end].clone() for store in self._decoder.cache._stores])


def watched(decoder: Decoder, transfer: Transfer, tree: dict[str, int] | None, **changes: Any) -> Watched:
    method = unattached(**changes)
    method.__class__ = Watched
    assert isinstance(method, Watched)
    method.use(
        decoder, random_projections(decoder, transfer), transfer, Tree.of_child_counts(tree or DEFAULT_TREE)
    )
    return method


@pytest.mark.parametrize("two_phase", [False, True], ids=["combined pass", "two phases"])
@pytest.mark.parametrize("is_oracle", [False, True], ids=["next to none accepted", "all accepted"])
def test_only_real_rows_are_ever_committed(is_oracle: bool, two_phase: bool) -> None:
    """Behind every round the cache is that of plain decoding of the same tokens, in every layer."""
    decoder = built(FAMILIES["llama"], torch.float64)
    future = own_ids(decoder, prompt(10), new=60)
    method = watched(decoder, Transfer((2, 3, 3)), SMALL_TREE, two_phase=two_phase)
    method.future = future if is_oracle else ()
    assert run(method, prompt(10), new=25).ids == future[:25]
    with torch.inference_mode():
        decoder.prefill(prompt(10))
        for index, token in enumerate(future[:30]):
            decoder.step(torch.tensor([token]), 10 + index)
    for cache in method.caches:
        for ours, plain in zip(cache, decoder.cache._stores, strict=True):
            torch.testing.assert_close(ours, plain[:, :, : ours.shape[2]], atol=1e-10, rtol=0)


@pytest.mark.parametrize("two_phase", [False, True], ids=["combined pass", "two phases"])
@pytest.mark.parametrize("new", [30, 56], ids=["pseudo rows no longer fit", "filled to the last slot"])
def test_a_nearly_full_cache_ends_drafting_not_decoding(new: int, two_phase: bool) -> None:
    decoder = random_decoder()
    got = run(bound(decoder, Transfer((3, 3, 3)), two_phase=two_phase), prompt(200), new=new)
    assert got.ids == own_ids(decoder, prompt(200), new=new)
    drafted = [one.drafted for one in got.rounds]
    assert drafted == sorted(drafted, reverse=True)
    assert drafted[0] > 0


# -- exactness -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("two_phase", [False, True], ids=["combined pass", "two phases"])
@EVERY_TRANSFER
def test_greedy_ids_are_the_targets_own_wherever_rows_enter(transfer: Transfer, two_phase: bool) -> None:
    decoder = random_decoder()
    assert run(bound(decoder, transfer, two_phase=two_phase), prompt()).ids == own_ids(decoder, prompt())


def test_a_sliding_window_counts_positions_not_slots() -> None:
    decoder = built(WINDOWED["mistral"])
    assert run(bound(decoder, Transfer((3, 3, 3))), prompt(20)).ids == own_ids(decoder, prompt(20))


@pytest.mark.parametrize("two_phase", [False, True], ids=["combined pass", "two phases"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("tree", "depth"),
    [({"": 1}, 1), ({"": 1, "0": 1, "00": 1}, 3), (None, 3)],
    ids=["one step", "chain of three", "default tree"],
)
def test_an_oracles_drafts_are_all_accepted(
    tree: dict[str, int] | None, depth: int, family: str, two_phase: bool
) -> None:
    decoder = random_decoder(family)
    method = watched(decoder, Transfer((3, 3, 3)), tree, two_phase=two_phase)
    method.future = own_ids(decoder, prompt(), new=60)
    got = run(method, prompt(), new=1 + 6 * (depth + 1))
    assert got.ids == method.future[: 1 + 6 * (depth + 1)]
    assert [(one.accepted, one.emitted) for one in got.rounds] == [(depth, depth + 1)] * 6
    assert {one.drafted for one in got.rounds} == {method._tree.size - 1}


def test_a_root_without_children_is_plain_decoding() -> None:
    decoder = random_decoder()
    method = unattached()
    method.use(decoder, random_projections(decoder, Transfer((3, 3, 3))), Transfer((3, 3, 3)), Tree.chain(0))
    got = run(method, prompt(), new=20)
    assert got.ids == own_ids(decoder, prompt(), new=20)
    assert [(one.drafted, one.emitted) for one in got.rounds] == [(0, 1)] * 19


class CommonNoise(Sampler):
    """Draws whose randomness is a function of the distribution: the same context gives the same token."""

    def pick(self, logits: Tensor) -> Tensor:
        noise = torch.empty(96, 96).exponential_(generator=torch.Generator().manual_seed(7))
        return (self.probabilities(logits) / noise[logits.argmax(dim=-1)]).argmax(dim=-1)


@pytest.mark.parametrize("two_phase", [False, True], ids=["combined pass", "two phases"])
@pytest.mark.parametrize("is_oracle", [False, True], ids=["next to none accepted", "all accepted"])
def test_sampling_with_common_random_numbers_gives_the_targets_own_sample(
    is_oracle: bool, two_phase: bool
) -> None:
    decoder, sampler = random_decoder(), CommonNoise(Sampling(0.8), CPU, 0)
    baseline = Autoregressive()
    baseline.attach(decoder)
    method = watched(decoder, Transfer((2, 3, 3)), SMALL_TREE, two_phase=two_phase)
    with torch.inference_mode():
        own = baseline.generate(prompt(), Budget(50, frozenset()), sampler, SilentClock())
        method.future = own.ids if is_oracle else ()
        got = method.generate(prompt(), Budget(41, frozenset()), sampler, SilentClock())
    assert got.ids == own.ids[: len(got.ids)]
    assert len(got.rounds) == 10 if is_oracle else len(got.rounds) > 30


# -- training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", WINDOWED)
def test_training_rows_are_decoding_rows_in_every_family(family: str) -> None:
    check_training_rows(TRANSFERS["staircase"], built(WINDOWED[family], torch.float64))


@EVERY_TRANSFER
def test_training_rows_are_decoding_rows_wherever_they_enter(transfer: Transfer) -> None:
    check_training_rows(transfer, built(FAMILIES["llama"], torch.float64))


def check_training_rows(transfer: Transfer, decoder: Decoder) -> None:
    method = bound(decoder, transfer)
    ids, anchors = prompt(24), torch.tensor([8, 9, 15, 22])
    hidden = dict.fromkeys(range(DEPTH + 1), decoder.embedding)
    with torch.inference_mode():
        decoder.prefill(ids, hidden)
        trained = pseudo_rows(transfer, random_projections(decoder, transfer), hidden, anchors, decoder)
        for index, anchor in enumerate(anchors.tolist()):
            method.prefill(ids[: anchor + 1])
            torch.testing.assert_close(trained[:, index], method._pseudo, atol=1e-10, rtol=0)


@EVERY_TRANSFER
def test_rows_of_the_combined_pass_are_training_rows(transfer: Transfer) -> None:
    decoder = built(FAMILIES["llama"], torch.float64)
    method = bound(decoder, transfer, {"": 1, "0": 1, "00": 1})
    ids, hidden = prompt(16), dict.fromkeys(range(DEPTH + 1), decoder.embedding)
    with torch.inference_mode():
        decoder.prefill(ids, hidden)
        anchors = torch.arange(12, 16)
        trained = pseudo_rows(transfer, random_projections(decoder, transfer), hidden, anchors, decoder)
        method.prefill(ids[:12])
        method.verify(TreeDraft(method._tree, ids[12:], "length"), 12)
    torch.testing.assert_close(method._pseudo, trained, atol=1e-10, rtol=0)


def test_entering_behind_the_last_layer_is_a_linear_head() -> None:
    decoder = random_decoder()
    transfer = TRANSFERS["behind the last layer"]
    method, taps = bound(decoder, transfer), {DEPTH: decoder.embedding}
    with torch.inference_mode():
        decoder.prefill(prompt(), taps)
        method.prefill(prompt())
    expected = [F.linear(taps[DEPTH][-1], one) for one in random_projections(decoder, transfer)]
    torch.testing.assert_close(method._pseudo, torch.stack(expected))


def test_each_step_learns_the_targets_choice_at_its_own_position() -> None:
    """Trained on one sequence, step i ranks the target's choice behind position q + i first."""
    decoder = random_decoder()
    method = unattached()
    torch.manual_seed(0)
    module = method.new_module(decoder)
    rows = observe(method, decoder, prompt(30).tolist(), [False] * 10 + [True] * 20)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses: list[float] = []
    for _ in range(80):
        loss, figures = method.loss(module, rows, decoder)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert all(figures[f"top5_{step}"] > 0.9 for step in (1, 2, 3))
    frozen = [decoder.embedding, decoder.final_norm, *(one.attention.qkv.weight for one in decoder.layers)]
    assert all(one.grad is None and not one.requires_grad for one in frozen)


def test_a_token_outside_the_answer_is_no_target() -> None:
    decoder = random_decoder()
    method = unattached()
    module = method.new_module(decoder)
    both = [
        observe(method, decoder, [*prompt(16).tolist(), *tail], [False] * 10 + [True] * 6 + [False] * 4)
        for tail in ([1, 2, 3, 4], [5, 6, 7, 8])
    ]
    same = unattached(anchors=100)
    first, second = (same.loss(module, rows, decoder)[0] for rows in both)
    torch.testing.assert_close(first, second)


def test_anchors_are_answer_positions_and_the_same_at_every_start() -> None:
    decoder = random_decoder()
    method = unattached(anchors=5)
    rows = observe(method, decoder, prompt(30).tolist(), [False] * 10 + [True] * 20)
    first, second = (method._drawn_anchors(rows, 256) for _ in range(2))
    assert torch.equal(first, second)
    assert first.tolist() == sorted(set(first.tolist()))
    assert rows.mask[first].all()


# -- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({}, (4, 4, 4)),
        ({"steps": 2, "enter": 0.5}, (3, 3)),
        ({"enter": 0.5, "stride": 2}, (3, 5, 6)),
        ({"steps": 1, "enter": 1.0}, (6,)),
    ],
    ids=["5/8 of the depth", "half-way", "staircase ends behind the last layer", "linear head"],
)
def test_steps_enter_at_a_share_of_the_depth(settings: dict[str, Any], layers: tuple[int, ...]) -> None:
    decoder = random_decoder()
    method = unattached(**settings)
    assert method.provenance(decoder)["layers"] == layers
    assert method.taps(decoder) == tuple(range(layers[0], 7))
    assert method.new_module(decoder).state_dict()["projections"].shape == (len(layers), WIDTH, WIDTH)


def test_it_is_labelled_a_reimplementation() -> None:
    assert HiddenTransfer.is_reimplementation


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"enter": 1.5}, r"enter must lie in \[0, 1\], got 1.5"),
        ({"stride": -1}, "stride must be at least 0, got -1"),
        ({"source": "fake"}, "source must be real or chain, got 'fake'"),
        ({"anchors": 0}, "anchors must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unattached(**settings)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"": 1, "0": 1, "00": 1, "000": 1},
            "the tree is 4 deep, the modules of hidden_transfer draft depths 1..3",
        ),
        ({"": 1, "3": 1}, r"method.tree is no tree: path \[3, 0\] has no parent"),
    ],
    ids=["deeper than the steps", "not a tree"],
)
def test_a_tree_that_cannot_be_drafted_is_refused(tree: dict[str, int], message: str, tmp_path: Path) -> None:
    decoder = random_decoder()
    saved(decoder, tmp_path)
    with pytest.raises(UserError, match=message):
        unattached(tree, weights=str(tmp_path)).attach(decoder)


def test_missing_weights_name_the_command_that_makes_them(tmp_path: Path) -> None:
    command = r".*\n.*bench\.train method=hidden_transfer"
    with pytest.raises(UserError, match=r"holds no module\.safetensors" + command):
        unattached(weights=str(tmp_path)).attach(random_decoder())
    with pytest.raises(UserError, match=r"method\.weights is not set" + command):
        unattached().attach(random_decoder())


def test_projections_of_another_width_are_refused_by_tensor_name(tmp_path: Path) -> None:
    method, other = saved(random_decoder(), tmp_path), random_decoder()
    object.__setattr__(other.config, "width", 64)
    with pytest.raises(
        UserError, match=r"projections has shape \(3, 32, 32\), this model needs \(3, 64, 64\)"
    ):
        method.attach(other)


@pytest.mark.parametrize(
    "change", [{"steps": 2}, {"enter": 0.5}, {"stride": 1}, {"source": "chain"}, {"isolate": True}]
)
def test_weights_trained_for_other_settings_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    decoder = random_decoder()
    method = saved(decoder, tmp_path, **change)
    with pytest.raises(UserError, match=r"were trained as Transfer\(layers=\(4, 4, 4\).*, not as"):
        method.attach(decoder)


@pytest.mark.parametrize(
    ("stored", "configured", "nodes"),
    [({}, None, 26), ({"tree": [[0], [0, 0]]}, None, 3), ({"tree": [[0], [0, 0]]}, "chain", 4)],
    ids=["uncalibrated", "beside the weights", "configured"],
)
def test_the_tree_is_the_configured_or_the_stored_or_the_uncalibrated_one(
    stored: dict[str, Any], configured: str | None, nodes: int, tmp_path: Path
) -> None:
    decoder, plain = random_decoder(), unattached()
    save_module(tmp_path, plain.new_module(decoder).state_dict(), {**plain.provenance(decoder), **stored})
    method = unattached(configured, weights=str(tmp_path))
    method.attach(decoder)
    assert method._tree.size == nodes


def test_calibration_sees_the_candidates_that_decoding_drafts() -> None:
    decoder = random_decoder()
    method = bound(decoder, Transfer((2, 3, 3)))
    with torch.inference_mode():
        offered = method.candidates(prompt(20), 4)
        method.prefill(prompt(20)[:15])
        drafted = decoder.head(method._pseudo).topk(4, dim=-1).indices
    assert isinstance(method, Calibratable)
    assert offered.shape == (20, 3, 4)
    assert torch.equal(offered[14], drafted)


def test_settings_that_repeat_those_of_training_are_accepted(tmp_path: Path) -> None:
    decoder = random_decoder()
    saved(decoder, tmp_path, steps=3, enter=0.625, stride=0).attach(decoder)
