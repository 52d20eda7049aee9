"""The cache gives losses the rows that a pass of the model gives, and is refused where it does not belong."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftHead
from bench.train.cache.rows import INDEX_FILE, RowCache
from bench.train.cache.store import array
from bench.train.trainers.loop import Dialogue
from bench.train.trainers.modules import observe
from methods.core.base import Trainable
from methods.training.rows import TrainingRows, packed
from tests.methods.small import prompt, random_decoder
from tests.train.test_memory import trainable

NAMES = ["kangaroo", "medusa", "hidden_transfer", "m2r2", "hamburger_verified"]


def dialogues(count: int = 4) -> list[Dialogue]:
    return [
        (prompt(20 + 3 * seed, seed).tolist(), [False] * 10 + [True] * (10 + 3 * seed))
        for seed in range(count)
    ]


def filled(folder: Path, decoder: Decoder, taps: Sequence[int], count: int = 4) -> RowCache:
    cache = RowCache(folder, decoder, dialogues(count), {"model_weights": "random"})
    cache.fill(taps)
    return cache


def rows_of(cache: RowCache, decoder: Decoder, taps: Sequence[int], count: int = 4) -> list[TrainingRows]:
    """One epoch, in the order of the dialogues."""
    examples = cache.examples(taps, DraftHead(decoder), 0)
    rows = [example() for example in itertools.islice(examples, count)]
    return sorted(rows, key=lambda row: row.lengths)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_that_of_a_pass_of_the_model(name: str, tmp_path: Path) -> None:
    method, decoder = trainable(name), random_decoder()
    assert isinstance(method, Trainable)
    trainer = method.trainer()
    module, taps = trainer.new_module(decoder), trainer.taps(decoder)
    cached = rows_of(filled(tmp_path, decoder, taps), decoder, taps)
    passed = [observe(trainer, decoder, ids, is_answer) for ids, is_answer in dialogues()]
    for kept, fresh in zip([*cached, packed(cached)], [*passed, packed(passed)], strict=True):
        assert torch.equal(kept.ids, fresh.ids)
        assert torch.equal(kept.mask, fresh.mask)
        assert set(kept.hidden) == set(taps)
        expected = trainer.loss(module, fresh, decoder)[0]
        torch.testing.assert_close(trainer.loss(module, kept, decoder)[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_dialogues_of_a_batch_do_not_see_each_other(name: str) -> None:
    """The loss of a batch is the mean over its tokens; where every dialogue has as many, of its dialogues."""
    method, decoder = trainable(name), random_decoder()
    assert isinstance(method, Trainable)
    trainer = method.trainer()
    module = trainer.new_module(decoder)
    parts = [
        observe(trainer, decoder, prompt(24, seed).tolist(), [False] * 12 + [True] * 12) for seed in range(3)
    ]
    losses = torch.stack([trainer.loss(module, part, decoder)[0] for part in parts])
    if name == "hamburger_verified":  # groups differ in length from dialogue to dialogue
        assert losses.min() < trainer.loss(module, packed(parts), decoder)[0] < losses.max()
    else:
        torch.testing.assert_close(trainer.loss(module, packed(parts), decoder)[0], losses.mean())


def test_the_model_runs_once_over_a_dialogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = random_decoder()
    filled(tmp_path, decoder, (1, 2))
    monkeypatch.setattr(RowCache, "_run", lambda *args: pytest.fail("a second pass"))
    filled(tmp_path, decoder, (2,))


def test_other_layers_join_the_same_folder(tmp_path: Path) -> None:
    decoder = random_decoder()
    first = rows_of(filled(tmp_path, decoder, (1,)), decoder, (1,))
    both = rows_of(filled(tmp_path, decoder, (1, 3)), decoder, (1, 3))
    for one, two in zip(first, both, strict=True):
        assert torch.equal(one.hidden[1], two.hidden[1])
        assert two.hidden[3].abs().sum() > 0


def test_an_interrupted_pass_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, places = random_decoder(), list[int]()
    whole = rows_of(filled(tmp_path / "whole", decoder, (2,)), decoder, (2,))
    run = RowCache._run

    def interrupted(cache: RowCache, place: int, taps: Sequence[int]) -> None:
        places.append(place)
        if len(places) == 3:
            raise KeyboardInterrupt
        run(cache, place, taps)

    monkeypatch.setattr("bench.train.cache.rows._SAVE_EVERY", 1)
    monkeypatch.setattr(RowCache, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "halves", decoder, (2,))
    resumed = rows_of(filled(tmp_path / "halves", decoder, (2,)), decoder, (2,))
    assert places == [0, 1, 2, 2, 3]
    for part, other in zip(whole, resumed, strict=True):
        assert torch.equal(part.hidden[2], other.hidden[2])
        assert torch.equal(part.likely.ids, other.likely.ids)


def test_other_dialogues_are_refused(tmp_path: Path) -> None:
    filled(tmp_path, random_decoder(), (1,))
    with pytest.raises(UserError, match=r"was made with other settings \(dialogues="):
        filled(tmp_path, random_decoder(), (1,), count=3)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "\udcff",
        '{"settings": {}}',
        '{"settings": 1, "done": {}}',
        "[" * 100_000,
    ],
    ids=range(7),
)
def test_a_damaged_index_is_told_in_two_lines(damage: str, tmp_path: Path) -> None:
    filled(tmp_path, random_decoder(), (1,))
    (tmp_path / INDEX_FILE).write_text(damage, errors="surrogateescape")
    with pytest.raises(UserError, match=r"is damaged|other settings") as caught:
        filled(tmp_path, random_decoder(), (1,))
    assert caught.value.fix


@pytest.mark.parametrize("done", [None, 3, {"likely": "4"}, {"likely": 99}, {"likely": -1}, {"likely": True}])
def test_an_index_that_counts_wrongly_is_damaged(done: object, tmp_path: Path) -> None:
    filled(tmp_path, random_decoder(), (1,))
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    (tmp_path / INDEX_FILE).write_text(json.dumps({**index, "done": done}))
    with pytest.raises(UserError, match="is damaged: done=") as caught:
        filled(tmp_path, random_decoder(), (1,))
    assert f"Delete {tmp_path / INDEX_FILE}" in caught.value.fix


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    filled(tmp_path, random_decoder(), (1,))
    (tmp_path / "layer_001.bin").write_bytes(b"short")
    cache = RowCache(tmp_path, random_decoder(), dialogues(), {"model_weights": "random"})
    with pytest.raises(UserError, match=r"layer_001\.bin holds 5 bytes"):
        rows_of(cache, random_decoder(), (1,))


def test_a_full_disk_is_two_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be made"):
        array(tmp_path / "huge.bin", (1 << 50,), torch.float32)
    assert not (tmp_path / "huge.bin").exists()


def test_size_is_known_before(tmp_path: Path) -> None:
    decoder = random_decoder()
    cache = filled(tmp_path, decoder, (1, 2))
    files = [path for path in tmp_path.iterdir() if path.name != INDEX_FILE]
    assert sum(path.stat().st_size for path in files) == cache.size_bytes((1, 2))
    assert json.loads((tmp_path / INDEX_FILE).read_text())["done"] == {"likely": 4, "1": 4, "2": 4}


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_over_a_draft_vocabulary_learns_its_tokens_alone(name: str) -> None:
    """Of a vocabulary with all tokens it is the whole loss; of a smaller one, no other token counts."""
    method, decoder = trainable(name), random_decoder()
    assert isinstance(method, Trainable)
    trainer, ids = method.trainer(), prompt(30).tolist()
    module = trainer.new_module(decoder)
    losses = []
    for head in (None, DraftHead(decoder, torch.arange(96)), DraftHead(decoder, torch.arange(40))):
        rows = observe(trainer, decoder, ids, [False] * 10 + [True] * 20, head)
        losses.append(float(trainer.loss(module, rows, decoder)[0].detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[2] < losses[0] or name == "medusa"  # whose heads here have LM heads of their own
